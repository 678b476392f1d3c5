"""Lloyd's iterations of k-means on sorted numbers, where clusters are intervals and assigning is finding borders."""

import torch
from torch import Tensor

from quantbench.kernels.dispatch import use_triton
from quantbench.kernels.kmeans import reference


def lloyd(values: Tensor, sums: Tensor, cuts: Tensor, *, iterations: int) -> Tensor:
    """Centers [rows, k], ascending, after at most so many iterations from the clusters between ``cuts``.

    values: fp32 [rows, n], ascending; sums: fp64 [2, rows, n + 1], of the weights w of the values before each, and of
    their w x; cuts: int64 [rows, k + 1], from 0 to n. A cluster without weight stays at its first value.
    """
    if use_triton(values):
        from quantbench.kernels.kmeans import triton

        with torch.cuda.device_of(values):
            return triton.lloyd(values, sums, cuts, iterations)
    return reference.lloyd(values, sums, cuts, iterations)
