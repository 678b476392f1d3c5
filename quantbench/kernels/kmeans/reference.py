"""Lloyd's iterations in torch, for all rows at once."""

import torch
from torch import Tensor
from torch.nn.functional import pad


def lloyd(values: Tensor, sums: Tensor, cuts: Tensor, iterations: int) -> Tensor:
    """Centers [rows, k]; rows that have settled wait for the others."""
    n = values.shape[1]
    for _ in range(iterations):
        centers = _means(values, sums, cuts)
        middle = (centers[:, 1:] + centers[:, :-1]) / 2
        moved = pad(pad(torch.searchsorted(values, middle), (1, 0)), (0, 1), value=n)
        if torch.equal(moved, cuts):
            break
        cuts = moved
    return _means(values, sums, cuts)


def _means(values: Tensor, sums: Tensor, cuts: Tensor) -> Tensor:
    """Weighted mean of each cluster, ascending: differences of sums may be off by their last bits."""
    mass, first = sums.gather(2, cuts.expand(2, -1, -1)).diff(dim=2).unbind()
    start = values.gather(1, cuts[:, :-1].clamp(max=values.shape[1] - 1))
    means = torch.where(mass > 0, first / mass.clamp(min=torch.finfo(mass.dtype).tiny), start)
    return means.to(values.dtype).sort(1).values
