"""Lloyd's iterations in Triton: a program does all of a row's, its borders in registers, and stops when they stay."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantbench.kernels.compiled import Specialization

_LEAST_CENTERS = 16


@triton.jit
def _means(values, mass_sums, first_sums, low, high, n, own):
    """Weighted mean of the values between two cuts, ascending; infinity where there is no cluster."""
    mass = tl.load(mass_sums + high, mask=own, other=0.0) - tl.load(mass_sums + low, mask=own, other=0.0)
    first = tl.load(first_sums + high, mask=own, other=0.0) - tl.load(first_sums + low, mask=own, other=0.0)
    start = tl.load(values + tl.minimum(low, n - 1), mask=own, other=0.0)
    mean = tl.where(mass > 0, (first / tl.where(mass > 0, mass, 1.0)).to(tl.float32), start)
    return tl.sort(tl.where(own, mean, float("inf")))


@triton.jit
def lloyd_kernel(centers, values, mass, first, cuts, n, count, iterations, COUNT: tl.constexpr, STEPS: tl.constexpr):
    """All iterations of one row; STEPS halvings find a border among n values."""
    row = tl.program_id(0).to(tl.int64)
    j = tl.arange(0, COUNT)
    own = j < count
    values += row * n
    mass += row * (n + 1)
    first += row * (n + 1)
    low = tl.load(cuts + row * (count + 1) + j, mask=own, other=0)
    high = tl.load(cuts + row * (count + 1) + j + 1, mask=own, other=0)
    moving = iterations
    while moving > 0:
        mean = _means(values, mass, first, low, high, n, own)
        middle = (tl.gather(mean, tl.minimum(j + 1, COUNT - 1), 0) + mean) / 2
        found, end = tl.zeros((COUNT,), tl.int32), tl.zeros((COUNT,), tl.int32) + n
        for _ in range(STEPS):
            half = (found + end) // 2
            below = tl.load(values + half, mask=found < end, other=0.0) < middle
            found, end = tl.where((found < end) & below, half + 1, found), tl.where((found < end) & ~below, half, end)
        moved = tl.where(j == count - 1, n, found)
        moving = tl.where(tl.sum(((moved != high) & own).to(tl.int32), 0) == 0, 0, moving - 1)
        high = tl.where(own, moved, 0)
        low = tl.where(j == 0, 0, tl.gather(high, tl.maximum(j - 1, 0), 0))
        low = tl.where(own, low, 0)
    tl.store(centers + row * count + j, _means(values, mass, first, low, high, n, own), mask=own)


def lloyd(values: Tensor, sums: Tensor, cuts: Tensor, iterations: int) -> Tensor:
    """Centers [rows, k]."""
    (rows, n), count = values.shape, cuts.shape[1] - 1
    centers = torch.empty((rows, count), dtype=torch.float32, device=values.device)
    lloyd_kernel[(rows,)](
        centers, values.contiguous(), sums[0].contiguous(), sums[1].contiguous(), cuts.int().contiguous(), n, count,
        iterations, num_warps=_warps(count), enable_fp_fusion=False, **_constants(count, n),
    )  # fmt: skip
    return centers


def _constants(count: int, n: int) -> dict[str, Any]:
    return {"COUNT": max(_LEAST_CENTERS, triton.next_power_of_2(count)), "STEPS": n.bit_length()}


def _warps(count: int) -> int:
    """A thread for each center."""
    return min(8, max(1, count // 32))


def specializations() -> list[Specialization]:
    """Tables of 16, 64 and 256 for rows of 4096."""
    arguments = dict.fromkeys(("centers", "values"), "*fp32") | dict.fromkeys(("mass", "first"), "*fp64")
    arguments |= {"cuts": "*i32"} | dict.fromkeys(("n", "count", "iterations"), "i32")
    return [
        Specialization(
            f"lloyd {count} centers",
            lloyd_kernel,
            arguments,
            _constants(count, 4096),
            warps=_warps(count),
            fp_fusion=False,
        )
        for count in (16, 64, 256)
    ]
