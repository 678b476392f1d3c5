"""A matrix cut into its groups, and put together again."""

from torch import Tensor
from torch.nn.functional import pad

from quantbench.formats import Format


def grouped(weight: Tensor, format: Format) -> Tensor:
    """[rows, in] -> [rows, groups, g], a ragged last group padded with zeros; [1, 1, rows * in] per tensor."""
    if format.per_tensor:
        return weight.reshape(1, 1, -1)
    rows, columns = weight.shape
    size = min(format.group_size or columns, columns)
    padding = -columns % size
    return (pad(weight, (0, padding)) if padding else weight).reshape(rows, -1, size)


def ungrouped(groups: Tensor, like: Tensor, format: Format) -> Tensor:
    """Inverse of :func:`grouped` for a matrix of the shape of ``like``."""
    if format.per_tensor:
        return groups.view(like.shape)
    return groups.reshape(len(like), -1)[:, : like.shape[1]]
