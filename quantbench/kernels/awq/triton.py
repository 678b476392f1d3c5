"""Rounding scaled weights in Triton: scale, find the range, round and scale back, without a matrix in between."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantbench.formats import IntFormat
from quantbench.kernels.compiled import Specialization
from quantbench.kernels.rtn.triton import ROWS, encode, format_constants, group_parameters, scale_limits, tile_columns


@triton.jit
def awq_kernel(
    result, weight, scale, rows, columns, group_size, steps, smallest, largest,
    BITS: tl.constexpr, LOWEST: tl.constexpr, SYMMETRIC: tl.constexpr, REAL_ZERO: tl.constexpr,
    SCALE_DTYPE: tl.constexpr, ZERO_DTYPE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One group for ROWS rows; the weights are read twice, the second time from the cache."""
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    start = tl.program_id(1) * group_size
    stop = tl.minimum(start + group_size, columns)
    place = r[:, None].to(tl.int64) * columns
    lows, highs = tl.zeros((ROWS, BLOCK), tl.float32), tl.zeros((ROWS, BLOCK), tl.float32)
    for first in range(start, stop, BLOCK):
        c = first + tl.arange(0, BLOCK)
        inside = (r[:, None] < rows) & (c[None, :] < stop)
        factor = tl.load(scale + c, mask=c < stop, other=1.0)
        w = tl.load(weight + place + c[None, :], mask=inside, other=0.0) * factor[None, :]
        lows, highs = tl.minimum(lows, w), tl.maximum(highs, w)
    low, high = tl.min(lows, 1), tl.max(highs, 1)  # not in the loop, where Triton 3.6 fails to place it
    s, z = group_parameters(low, high, steps, smallest, largest, BITS, SYMMETRIC, REAL_ZERO, SCALE_DTYPE, ZERO_DTYPE)
    for first in range(start, stop, BLOCK):
        c = first + tl.arange(0, BLOCK)
        inside = (r[:, None] < rows) & (c[None, :] < stop)
        factor = tl.load(scale + c, mask=c < stop, other=1.0)
        w = tl.load(weight + place + c[None, :], mask=inside, other=0.0) * factor[None, :]
        q = encode(w, s[:, None], z[:, None], BITS, LOWEST, REAL_ZERO)
        tl.store(result + place + c[None, :], tl.div_rn((q - z[:, None]) * s[:, None], factor[None, :]), mask=inside)


def scaled_nearest(weight: Tensor, scale: Tensor, format: IntFormat) -> Tensor:
    """W rounded on the grid of W s."""
    weight, (rows, columns) = weight.contiguous(), weight.shape
    size = min(format.group_size or columns, columns)
    result = torch.empty_like(weight)
    awq_kernel[(triton.cdiv(rows, ROWS), triton.cdiv(columns, size))](
        result, weight, scale.contiguous(), rows, columns, size, *scale_limits(format),
        ROWS=ROWS, BLOCK=tile_columns(size), enable_fp_fusion=False, **format_constants(format),
    )  # fmt: skip
    return result


def specializations() -> list[Specialization]:
    """4 bits in groups of 128."""
    arguments = dict.fromkeys(("result", "weight", "scale"), "*fp32")
    arguments |= dict.fromkeys(("rows", "columns", "group_size"), "i32")
    arguments |= dict.fromkeys(("steps", "smallest", "largest"), "fp32")
    constants = format_constants(IntFormat(bits=4, group_size=128)) | {"ROWS": ROWS, "BLOCK": tile_columns(128)}
    aligned = ("rows", "columns", "group_size")
    return [Specialization("awq w4 g128", awq_kernel, arguments, constants, fp_fusion=False, aligned=aligned)]
