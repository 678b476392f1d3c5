"""Round to nearest in Triton: one program finds the range of a group for a few rows, then reads it again to encode.

The second reading comes from the cache, so the weights cross the memory bus once.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantbench.formats import GroupParams, IntFormat
from quantbench.kernels.compiled import Specialization
from quantbench.kernels.layout import PLANES, WORD, DeviceWeight
from quantbench.kernels.numeric import clamp, round_even

_STORED = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}
ROWS, _COLUMNS = 32, 128  # of a tile
_LEAST_COLUMNS = 32


@triton.jit
def group_parameters(
    low, high, steps, smallest, largest,
    BITS: tl.constexpr, SYMMETRIC: tl.constexpr, REAL_ZERO: tl.constexpr,
    SCALE_DTYPE: tl.constexpr, ZERO_DTYPE: tl.constexpr,
):  # fmt: skip
    """Scale and zero-point of the range [low, high], as ``IntFormat.params`` gives them."""
    MAX: tl.constexpr = (1 << BITS) - 1
    span = 2 * tl.maximum(-low, high) if SYMMETRIC else high - low
    s = clamp(tl.div_rn(span, steps), smallest, largest).to(SCALE_DTYPE).to(tl.float32)
    if SYMMETRIC:
        z = tl.zeros_like(s) + (1 << (BITS - 1))
    else:
        z = tl.div_rn(-low, s)
        z = z.to(ZERO_DTYPE).to(tl.float32) if REAL_ZERO else clamp(round_even(z), 0.0, MAX)
    return s, z


@triton.jit
def encode(w, s, z, BITS: tl.constexpr, LOWEST: tl.constexpr, REAL_ZERO: tl.constexpr):
    """Nearest codes as floating point integers, as ``IntFormat.encode`` gives them."""
    w = tl.div_rn(w, s)
    q = round_even(w + z) if REAL_ZERO else round_even(w) + z
    return clamp(q, LOWEST, (1 << BITS) - 1)


@triton.jit
def _store_words(q, plane, first, rows, r, columns, SHIFT: tl.constexpr, WIDTH: tl.constexpr, EACH: tl.constexpr):
    """Pack codes q [ROWS, BLOCK], whose first column is ``first``, and store the words along the rows."""
    ROWS: tl.constexpr = q.shape[0]
    COUNT: tl.constexpr = q.shape[1] // EACH
    part = tl.reshape((q >> SHIFT) & ((1 << WIDTH) - 1), (ROWS, COUNT, EACH))
    words = tl.sum(part << (tl.arange(0, EACH) * WIDTH)[None, None, :], axis=2)
    index = first // EACH + tl.arange(0, COUNT)
    inside = (index[:, None] * EACH < columns) & (r[None, :] < rows)
    tl.store(plane + index[:, None].to(tl.int64) * rows + r[None, :], tl.trans(words), mask=inside)


@triton.jit
def rtn_kernel(
    weight, codes, high_plane, scale, zero, rows, columns, group_size,
    row_stride, group_stride, steps, smallest, largest,
    BITS: tl.constexpr, LOWEST: tl.constexpr, SYMMETRIC: tl.constexpr, REAL_ZERO: tl.constexpr,
    SCALE_DTYPE: tl.constexpr, ZERO_DTYPE: tl.constexpr, LOW_WIDTH: tl.constexpr, HIGH_WIDTH: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Parameters and codes of one group for ROWS rows; LOW_WIDTH is 0 where codes are stored as bytes."""
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    group = tl.program_id(1)
    start, stop = group * group_size, tl.minimum((group + 1) * group_size, columns)
    base = weight + r[:, None].to(tl.int64) * columns
    lows, highs = tl.zeros((ROWS, BLOCK), tl.float32), tl.zeros((ROWS, BLOCK), tl.float32)
    for first in range(start, stop, BLOCK):
        c = first + tl.arange(0, BLOCK)
        w = tl.load(base + c[None, :], mask=(r[:, None] < rows) & (c[None, :] < stop), other=0.0)
        lows, highs = tl.minimum(lows, w), tl.maximum(highs, w)
    low, high = tl.min(lows, 1), tl.max(highs, 1)  # not in the loop, where Triton 3.6 fails to place it
    s, z = group_parameters(low, high, steps, smallest, largest, BITS, SYMMETRIC, REAL_ZERO, SCALE_DTYPE, ZERO_DTYPE)
    place = r * row_stride + group * group_stride
    tl.store(scale + place, s, mask=r < rows)
    if not SYMMETRIC or LOW_WIDTH == 0:
        tl.store(zero + place, z, mask=r < rows)
    for first in range(start, stop, BLOCK):
        c = first + tl.arange(0, BLOCK)
        inside = (r[:, None] < rows) & (c[None, :] < stop)
        w = tl.load(base + c[None, :], mask=inside, other=0.0)
        q = encode(w, s[:, None], z[:, None], BITS, LOWEST, REAL_ZERO).to(tl.int32)
        if LOW_WIDTH == 0:
            tl.store(codes + r[:, None].to(tl.int64) * columns + c[None, :], q.to(tl.uint8), mask=inside)
        else:
            q = tl.where(c[None, :] < stop, q, 0)  # what pads the last word
            _store_words(q, codes, first, rows, r, columns, 0, LOW_WIDTH, 32 // LOW_WIDTH)
            if HIGH_WIDTH > 0:
                _store_words(q, high_plane, first, rows, r, columns, LOW_WIDTH, HIGH_WIDTH, 32 // HIGH_WIDTH)


def quantize(weight: Tensor, format: IntFormat) -> tuple[Tensor, GroupParams]:
    """Codes uint8 [n, k] and parameters [n, groups]."""
    weight, (rows, columns) = weight.contiguous(), weight.shape
    groups = len(format.group_slices(columns))
    codes = torch.empty((rows, columns), dtype=torch.uint8, device=weight.device)
    scale = torch.empty((rows, groups), dtype=torch.float32, device=weight.device)
    zero = torch.empty_like(scale)
    _launch(weight, format, (codes, codes), scale, zero, strides=(groups, 1), widths=(0, 0))
    return codes, GroupParams(scale, zero)


def quantize_packed(weight: Tensor, format: IntFormat) -> DeviceWeight:
    """The same as words."""
    weight, (rows, columns) = weight.contiguous(), weight.shape
    groups, widths = len(format.group_slices(columns)), PLANES[format.bits]
    planes = tuple(
        torch.empty((-(-columns * width // WORD), rows), dtype=torch.int32, device=weight.device) for width in widths
    )
    scale = torch.empty((groups, rows), dtype=format.storage_dtype, device=weight.device)
    zero = torch.empty((groups, rows), dtype=torch.uint8, device=weight.device)
    _launch(
        weight, format, (planes[0], planes[-1]), scale, zero, strides=(1, rows), widths=(widths[0], sum(widths[1:]))
    )
    return DeviceWeight(
        shape=(rows, columns),
        bits=format.bits,
        group_size=format.group_size or columns,
        planes=planes,
        scale=scale,
        zero=float(2 ** (format.bits - 1)) if format.symmetric else zero,
    )


def _launch(
    weight: Tensor,
    format: IntFormat,
    codes: tuple[Tensor, Tensor],
    scale: Tensor,
    zero: Tensor,
    *,
    strides: tuple[int, int],
    widths: tuple[int, int],
) -> None:
    rows, columns = weight.shape
    size = min(format.group_size or columns, columns)
    rtn_kernel[(triton.cdiv(rows, ROWS), triton.cdiv(columns, size))](
        weight, *codes, scale, zero, rows, columns, size, *strides, *scale_limits(format),
        LOW_WIDTH=widths[0], HIGH_WIDTH=widths[1], ROWS=ROWS, BLOCK=tile_columns(size), enable_fp_fusion=False,
        **format_constants(format),
    )  # fmt: skip


def tile_columns(size: int) -> int:
    """Columns of a tile for groups of ``size``."""
    return min(_COLUMNS, max(_LEAST_COLUMNS, triton.next_power_of_2(size)))


def scale_limits(format: IntFormat) -> tuple[float, float, float]:
    """Steps that a range is cut into, and the smallest and the largest scale that is stored."""
    info = torch.finfo(format.storage_dtype)
    smallest = max(info.tiny * info.eps, torch.finfo(torch.float32).tiny)  # as IntFormat stores scales
    steps = 2 * (2 ** (format.bits - 1) - 1) if format.narrow_range else format.max_code
    return float(steps), smallest, info.max


def format_constants(format: IntFormat) -> dict[str, Any]:
    """What kernels are compiled with for a format."""
    return {
        "BITS": format.bits,
        "LOWEST": 1.0 if format.narrow_range else 0.0,
        "SYMMETRIC": format.symmetric,
        "REAL_ZERO": format.real_zero_point,
        "SCALE_DTYPE": _STORED[format.storage_dtype],
        "ZERO_DTYPE": _STORED[format.real_zero_dtype],
    }


def specializations() -> list[Specialization]:
    """Codes as bytes, and 3 and 4 bits as words, in groups of 128."""
    pointers = {"weight": "*fp32", "scale": "*fp32", "zero": "*fp32", "codes": "*u8", "high_plane": "*u8"}
    numbers = dict.fromkeys(("rows", "columns", "group_size", "row_stride", "group_stride"), "i32")
    numbers |= dict.fromkeys(("steps", "smallest", "largest"), "fp32")
    words = pointers | {"scale": "*fp16", "zero": "*u8", "codes": "*i32", "high_plane": "*i32"}
    tile = {"ROWS": ROWS, "BLOCK": _COLUMNS}
    return [
        Specialization(
            f"rtn w{bits} {'words' if low else 'bytes'}",
            rtn_kernel,
            (words if low else pointers) | numbers,
            format_constants(IntFormat(bits=bits)) | tile | {"LOW_WIDTH": low, "HIGH_WIDTH": high},
            fp_fusion=False,
            aligned=("rows", "columns", "group_size"),
        )
        for bits, low, high in ((4, 0, 0), (4, 4, 0), (3, 2, 1), (8, 8, 0))
    ]
