"""HQQ's iterations in Triton: a program holds a few groups in registers until the last of them is done."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantbench.kernels.compiled import Specialization
from quantbench.kernels.hqq.reference import SETTLED
from quantbench.kernels.numeric import clamp, round_even

_ELEMENTS = 2048  # of a tile
_LEAST_COLUMNS = 16


@triton.jit
def hqq_kernel(
    result, weight, scale, start, groups, size, max_code, power, beta, kappa, settled, iterations,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Everything in units of a step: w / s + z is a real code, its distance to the nearest code the error."""
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.arange(0, BLOCK)
    own = r < groups
    inside = own[:, None] & (c[None, :] < size)
    s = tl.load(scale + r, mask=own, other=1.0)
    z = tl.load(start + r, mask=own, other=0.0)
    w = tl.load(weight + r[:, None].to(tl.int64) * size + c[None, :], mask=inside, other=0.0)
    steps = tl.div_rn(w, s[:, None])
    moving = own.to(tl.int32)
    i = 0
    while (i < iterations) & (tl.sum(moving, 0) > 0):
        real = steps + z[:, None]
        error = real - clamp(round_even(real), 0.0, max_code)
        magnitude = tl.abs(error) * s[:, None]
        shrunk = tl.maximum(magnitude - tl.exp2(power * tl.log2(magnitude)) / beta, 0.0)
        shrunk = shrunk / s[:, None]
        error -= tl.where(error < 0, -shrunk, shrunk)
        shift = tl.sum(tl.where(inside, error, 0.0), 1) / size
        z -= tl.where(moving > 0, shift, 0.0)
        moving = tl.where(tl.abs(shift) > settled, moving, 0)
        beta *= kappa
        i += 1
    tl.store(result + r, z, mask=own)


def moved_zero_point(
    weight: Tensor,
    scale: Tensor,
    start: Tensor,
    *,
    max_code: int,
    lp_norm: float,
    beta: float,
    kappa: float,
    iterations: int,
) -> Tensor:
    """Zero-points [groups, 1]."""
    weight, (groups, size) = weight.contiguous(), weight.shape
    result = torch.empty((groups, 1), dtype=torch.float32, device=weight.device)
    block = max(_LEAST_COLUMNS, triton.next_power_of_2(size))
    rows = max(1, _ELEMENTS // block)
    hqq_kernel[(triton.cdiv(groups, rows),)](
        result, weight, scale.contiguous(), start.contiguous(), groups, size, float(max_code), lp_norm - 1.0,
        float(beta), float(kappa), SETTLED, iterations, ROWS=rows, BLOCK=block, enable_fp_fusion=True,
    )  # fmt: skip
    return result


def specializations() -> list[Specialization]:
    """Groups of 64 and of 1024."""
    arguments = dict.fromkeys(("result", "weight", "scale", "start"), "*fp32")
    arguments |= dict.fromkeys(("groups", "size", "iterations"), "i32")
    arguments |= dict.fromkeys(("max_code", "power", "beta", "kappa", "settled"), "fp32")
    return [
        Specialization(f"hqq g{size}", hqq_kernel, arguments, {"ROWS": _ELEMENTS // size, "BLOCK": size})
        for size in (64, 1024)
    ]
