"""Quantizing tokens, and what is made of a product of integers, in Triton.

A program quantizes one token: it reads it for the range, and from the cache again to encode. e4m3 is made of the bits
of fp32, since older GPUs have no instruction for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantbench.formats import FP8, GroupParams, IntFormat
from quantbench.kernels.compiled import Specialization
from quantbench.kernels.numeric import clamp, round_even
from quantbench.kernels.rtn.triton import encode, format_constants, group_parameters, scale_limits

if TYPE_CHECKING:
    from quantbench.kernels.w8a8 import ByteWeight

_MOST_COLUMNS, _LEAST_COLUMNS = 2048, 16  # of a tile
_RESCALED = 1024
_E4M3_TOP = tl.constexpr(448.0)


@triton.jit
def e4m3_code(v):
    """The nearest e4m3 number to each v in [-448, 448], ties to even, as its byte."""
    bits = tl.abs(v).to(tl.int32, bitcast=True)
    # four exponent and three mantissa bits remain of fp32's; its exponent bias is 127, that of e4m3 is 7
    normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) >> 20) - ((127 - 7) << 3)
    subnormal = round_even(tl.abs(v) * 512.0).to(tl.int32)  # multiples of 2^-9, of which the eighth is normal
    return tl.where(tl.abs(v) < 0.015625, subnormal, normal) | tl.where(v < 0, 0x80, 0)


@triton.jit
def tokens_kernel(
    codes, scale, zero, sums, x, known_scale, known_zero, columns, width, clip, steps, smallest, largest,
    BITS: tl.constexpr, LOWEST: tl.constexpr, SYMMETRIC: tl.constexpr, REAL_ZERO: tl.constexpr,
    SCALE_DTYPE: tl.constexpr, ZERO_DTYPE: tl.constexpr, FLOAT8: tl.constexpr, KNOWN: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Range, parameters, codes and their sum of one token."""
    HALF: tl.constexpr = 1 << (BITS - 1)
    token = tl.program_id(0)
    c = tl.arange(0, BLOCK)
    base = x + token.to(tl.int64) * columns
    if KNOWN:
        s, z = tl.load(known_scale + token), tl.load(known_zero + token)
    else:
        lows, highs = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
        for first in range(0, columns, BLOCK):
            v = tl.load(base + first + c, mask=first + c < columns, other=0.0).to(tl.float32)
            lows, highs = tl.minimum(lows, v), tl.maximum(highs, v)
        low, high = tl.min(lows, 0) * clip, tl.max(highs, 0) * clip
        if FLOAT8:
            s = tl.div_rn(tl.maximum(-low, high), steps)
            s = tl.where(s > 0, clamp(s, smallest, largest), 0.0).to(SCALE_DTYPE).to(tl.float32)
            z = s
        else:
            s, z = group_parameters(
                low, high, steps, smallest, largest, BITS, SYMMETRIC, REAL_ZERO, SCALE_DTYPE, ZERO_DTYPE
            )
    tl.store(scale + token, s)
    total = tl.zeros((BLOCK,), tl.int32)
    factor = tl.where(s > 0, tl.div_rn(1.0, tl.maximum(s, smallest)), 0.0) if FLOAT8 else s
    for first in range(0, width, BLOCK):
        inside = first + c < columns
        v = tl.load(base + first + c, mask=inside, other=0.0).to(tl.float32)
        if FLOAT8:
            code = e4m3_code(clamp(v * factor, -_E4M3_TOP, _E4M3_TOP))
        else:
            code = encode(v, s, z, BITS, LOWEST, REAL_ZERO).to(tl.int32) - HALF
        code = tl.where(inside, code, 0)
        total += code
        tl.store(
            codes + token.to(tl.int64) * width + first + c, code.to(codes.dtype.element_ty), mask=first + c < width
        )
    if not FLOAT8:
        tl.store(zero + token, z.to(tl.int32) - HALF)
        tl.store(sums + token, tl.sum(total, 0))


@triton.jit
def rescale_kernel(
    result, product, scale, zero, sums, row_scale, row_zero, row_sums, rows, stride, columns, BLOCK: tl.constexpr
):
    """BLOCK results of one token from sums of products of codes."""
    token = tl.program_id(0)
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = n < rows
    z = tl.load(zero + token)
    total = tl.load(product + token.to(tl.int64) * stride + n, mask=inside, other=0)
    total -= z * tl.load(row_sums + n, mask=inside, other=0)
    total -= (tl.load(sums + token) - columns * z) * tl.load(row_zero + n, mask=inside, other=0)
    value = total.to(tl.float32) * tl.load(scale + token) * tl.load(row_scale + n, mask=inside, other=0.0)
    tl.store(result + token.to(tl.int64) * rows + n, value.to(result.dtype.element_ty), mask=inside)


def quantize_tokens(
    x: Tensor, format: IntFormat | FP8, params: GroupParams | None, clip: float, width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Codes [m, width], scale, zero-point and sum of codes [m]."""
    x, (m, k), float8 = x.contiguous(), x.shape, isinstance(format, FP8)
    codes = torch.empty((m, width), dtype=torch.uint8 if float8 else torch.int8, device=x.device)
    scale = torch.empty(m, dtype=torch.float32, device=x.device)
    zero, sums = (torch.zeros(m, dtype=torch.int32, device=x.device) for _ in range(2))
    known = (scale, scale) if params is None else (params.scale.contiguous(), params.zero_point.contiguous())
    block = max(_LEAST_COLUMNS, min(_MOST_COLUMNS, triton.next_power_of_2(width)))
    tokens_kernel[(m,)](
        codes, scale, zero, sums, x, *known, k, width, float(clip), *_limits(format), KNOWN=params is not None,
        BLOCK=block, enable_fp_fusion=False, **_constants(format),
    )  # fmt: skip
    return codes.view(torch.float8_e4m3fn) if float8 else codes, scale, zero, sums


def rescaled(
    product: Tensor, scale: Tensor, zero: Tensor, sums: Tensor, weight: ByteWeight, dtype: torch.dtype
) -> Tensor:
    """[m, n] in ``dtype`` from the product of codes, int32 [m, at least n]."""
    (m, stride), (n, k) = product.shape, weight.shape
    result = torch.empty((m, n), dtype=dtype, device=product.device)
    rescale_kernel[(m, triton.cdiv(n, _RESCALED))](
        result, product, scale, zero, sums, weight.scale, weight.zero, weight.sums, n, stride, k, BLOCK=_RESCALED,
        enable_fp_fusion=False,
    )  # fmt: skip
    return result


def _limits(format: IntFormat | FP8) -> tuple[float, float, float]:
    """Steps from zero to the end of the range, and the smallest and the largest scale that is stored."""
    if isinstance(format, FP8):
        return (torch.finfo(torch.float8_e4m3fn).max, *scale_limits(_INT8_OF[format.scale_dtype])[1:])
    return scale_limits(format)


def _constants(format: IntFormat | FP8) -> dict[str, Any]:
    if isinstance(format, FP8):
        return format_constants(_INT8_OF[format.scale_dtype]) | {"FLOAT8": True}
    return format_constants(format) | {"FLOAT8": False}


_INT8_OF = {
    dtype: IntFormat(bits=8, group_size=None, symmetric=True, scale_dtype=dtype)
    for dtype in ("float16", "bfloat16", "float32")
}


def specializations() -> list[Specialization]:
    """Tokens of bfloat16 to int8 and e4m3, with ranges of their own, and rescaling to bfloat16."""
    pointers = {"codes": "*i8", "scale": "*fp32", "zero": "*i32", "sums": "*i32", "x": "*bf16"}
    pointers |= dict.fromkeys(("known_scale", "known_zero"), "*fp32")
    numbers = {"columns": "i32", "width": "i32"} | dict.fromkeys(("clip", "steps", "smallest", "largest"), "fp32")
    tile = {"KNOWN": False, "BLOCK": _MOST_COLUMNS}
    asymmetric = IntFormat(bits=8, group_size=None, scale_dtype="float32")
    formats: dict[str, IntFormat | FP8] = {"int8": asymmetric, "e4m3": FP8()}
    found = [
        Specialization(
            f"tokens {name}",
            tokens_kernel,
            pointers | numbers | ({"codes": "*u8"} if name == "e4m3" else {}),
            _constants(format) | tile,
            fp_fusion=False,
            aligned=("columns", "width"),
        )
        for name, format in formats.items()
    ]
    sides = {"result": "*bf16", "product": "*i32", "scale": "*fp32", "zero": "*i32", "sums": "*i32"}
    sides |= {"row_scale": "*fp32", "row_zero": "*i32", "row_sums": "*i32"}
    sides |= dict.fromkeys(("rows", "stride", "columns"), "i32")
    constants = {"BLOCK": _RESCALED}
    aligned = ("rows", "stride", "columns")
    return [*found, Specialization("rescale", rescale_kernel, sides, constants, fp_fusion=False, aligned=aligned)]
