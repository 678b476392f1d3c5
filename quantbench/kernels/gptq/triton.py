"""GPTQ's inner loop in Triton: a program holds a few rows of the weights in registers, from first to last column.

Nothing is fused or reordered, so the codes, the errors and the weights are those of the torch loop to the last bit.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantbench.formats import GroupParams, IntFormat
from quantbench.kernels.compiled import Specialization
from quantbench.kernels.numeric import clamp
from quantbench.kernels.rtn.triton import encode, format_constants, group_parameters, scale_limits

_ROWS = 16
_LEAST_COLUMNS = 16
_FLOAT16_MAX = tl.constexpr(65504.0)


@triton.jit
def gptq_kernel(
    columns, factor, correction, keep, scale, zero, groups, codes, errors, n, rows, group_size,
    steps, smallest, largest,
    BITS: tl.constexpr, LOWEST: tl.constexpr, SYMMETRIC: tl.constexpr, REAL_ZERO: tl.constexpr,
    SCALE_DTYPE: tl.constexpr, ZERO_DTYPE: tl.constexpr, GROUPS: tl.constexpr,
    CORRECTED: tl.constexpr, KEEPING: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Quantize ``n`` columns for ROWS rows; tiles are [COLUMNS, ROWS], as the weights lie in memory.

    GROUPS: "one" has its parameters in ``scale`` and ``zero``, "many" too, each column's number in ``groups``; those of
    "fitted" are found here, for every ``group_size`` columns, and written there.
    """
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.arange(0, COLUMNS)
    own = r < rows
    inside = (c[:, None] < n) & own[None, :]
    place = c[:, None].to(tl.int64) * rows + r[None, :]
    w = tl.load(columns + place, mask=inside, other=0.0)
    s, z = tl.full((ROWS,), 1.0, tl.float32), tl.zeros((ROWS,), tl.float32)
    if GROUPS == "one":
        s, z = tl.load(scale + r, mask=own, other=1.0), tl.load(zero + r, mask=own, other=0.0)
    for i in range(n):
        column = tl.sum(tl.where(c[:, None] == i, w, 0.0), 0)
        if GROUPS == "many":
            group = tl.load(groups + i)
            s = tl.load(scale + group * rows + r, mask=own, other=1.0)
            z = tl.load(zero + group * rows + r, mask=own, other=0.0)
        if GROUPS == "fitted" and i % group_size == 0:
            seen = (c[:, None] >= i) & (c[:, None] < i + group_size) & inside
            if KEEPING:
                seen = seen & (tl.load(keep + place, mask=inside, other=0) == 0)
            within = tl.where(seen, w, 0.0)
            low, high = tl.minimum(tl.min(within, 0), 0.0), tl.maximum(tl.max(within, 0), 0.0)
            s, z = group_parameters(
                low, high, steps, smallest, largest, BITS, SYMMETRIC, REAL_ZERO, SCALE_DTYPE, ZERO_DTYPE
            )
            tl.store(scale + (i // group_size) * rows + r, s, mask=own)
            tl.store(zero + (i // group_size) * rows + r, z, mask=own)
        code = encode(column, s, z, BITS, LOWEST, REAL_ZERO)
        value = (code - z) * s
        if KEEPING:
            stored = clamp(column, -_FLOAT16_MAX, _FLOAT16_MAX).to(tl.float16).to(tl.float32)
            value = tl.where(tl.load(keep + i * rows + r, mask=own, other=0) != 0, stored, value)
        error = tl.div_rn(column - value, tl.load(factor + i * n + i))
        tl.store(codes + i * rows + r, code.to(tl.uint8), mask=own)
        tl.store(errors + i * rows + r, error, mask=own)
        later = (c > i) & (c < n)
        w -= tl.load(factor + i * n + c, mask=later, other=0.0)[:, None] * error[None, :]
        if CORRECTED:
            w += tl.load(correction + i * n + c, mask=later, other=0.0)[:, None] * column[None, :]
    tl.store(columns + place, w, mask=inside)


def quantize_piece(
    columns: Tensor,
    factor: Tensor,
    params: GroupParams,
    groups: Sequence[int],
    format: IntFormat,
    *,
    correction: Tensor | None = None,
    keep: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Codes and errors [n, rows]; ``columns`` is changed in place."""
    first = groups[0]
    one = all(group == first for group in groups)
    scale, zero = ((t[first] if one else t).contiguous() for t in (params.scale, params.zero_point))
    index = None if one else torch.tensor(groups, dtype=torch.int32, device=columns.device)
    return _launch(columns, factor, (scale, zero, index), format, 1, "one" if one else "many", correction, keep)


def fit_and_quantize_piece(
    columns: Tensor,
    factor: Tensor,
    format: IntFormat,
    group_size: int,
    *,
    correction: Tensor | None = None,
    keep: Tensor | None = None,
) -> tuple[Tensor, Tensor, GroupParams]:
    """Codes and errors [n, rows], parameters [groups, rows]; ``columns`` is changed in place."""
    n, rows = columns.shape
    scale = torch.empty((triton.cdiv(n, group_size), rows), dtype=torch.float32, device=columns.device)
    zero = torch.empty_like(scale)
    found = _launch(columns, factor, (scale, zero, None), format, group_size, "fitted", correction, keep)
    return *found, GroupParams(scale, zero)


def _launch(
    columns: Tensor,
    factor: Tensor,
    params: tuple[Tensor, Tensor, Tensor | None],
    format: IntFormat,
    group_size: int,
    groups: str,
    correction: Tensor | None,
    keep: Tensor | None,
) -> tuple[Tensor, Tensor]:
    assert columns.is_contiguous()
    assert keep is None or keep.is_contiguous()
    n, rows = columns.shape
    codes, errors = torch.empty(columns.shape, dtype=torch.uint8, device=columns.device), torch.empty_like(columns)
    gptq_kernel[(triton.cdiv(rows, _ROWS),)](
        columns, factor.contiguous(), None if correction is None else correction.contiguous(), keep, *params,
        codes, errors, n, rows, group_size, *scale_limits(format),
        **format_constants(format), GROUPS=groups, CORRECTED=correction is not None, KEEPING=keep is not None,
        ROWS=_ROWS, COLUMNS=max(_LEAST_COLUMNS, triton.next_power_of_2(n)), enable_fp_fusion=False,
    )  # fmt: skip
    return codes, errors


def specializations() -> list[Specialization]:
    """A piece of 128 columns in one group, with its range found, and with every option."""
    return [
        _specialization("gptq 16 x 128", "one"),
        _specialization("gptq 16 x 128 fitted", "fitted"),
        _specialization("gptq 16 x 128 all options", "many", plain=False),
        _specialization("gptq 16 x 128 fitted all options", "fitted", plain=False),
    ]


def _specialization(name: str, groups: str, *, plain: bool = True) -> Specialization:
    arguments = dict.fromkeys(("columns", "factor", "scale", "zero", "errors"), "*fp32") | {"codes": "*u8"}
    arguments |= dict.fromkeys(("n", "rows", "group_size"), "i32")
    arguments |= dict.fromkeys(("steps", "smallest", "largest"), "fp32")
    optional = {"groups": "*i32"} if groups == "many" else {}
    optional |= {} if plain else {"correction": "*fp32", "keep": "*i1"}
    absent = [name for name in ("groups", "correction", "keep") if name not in optional]
    constants = format_constants(IntFormat(bits=4, group_size=128)) | dict.fromkeys(absent)
    constants |= {"GROUPS": groups, "CORRECTED": not plain, "KEEPING": not plain, "ROWS": _ROWS, "COLUMNS": 128}
    aligned = ("n", "rows", "group_size")
    return Specialization(name, gptq_kernel, arguments | optional, constants, fp_fusion=False, aligned=aligned)
