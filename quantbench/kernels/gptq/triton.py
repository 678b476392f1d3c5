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
from quantbench.kernels.numeric import clamp, round_even

_ROWS = 16
_LEAST_COLUMNS = 16
_FLOAT16_MAX = tl.constexpr(65504.0)


@triton.jit
def gptq_kernel(
    columns, factor, correction, keep, scale, zero, groups, codes, errors, n, rows,
    MAX: tl.constexpr, LOWEST: tl.constexpr, REAL_ZERO: tl.constexpr, ONE_GROUP: tl.constexpr,
    CORRECTED: tl.constexpr, KEEPING: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Quantize ``n`` columns for ROWS rows; tiles are [COLUMNS, ROWS], as the weights lie in memory."""
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.arange(0, COLUMNS)
    own = r < rows
    inside = (c[:, None] < n) & own[None, :]
    place = c[:, None].to(tl.int64) * rows + r[None, :]
    w = tl.load(columns + place, mask=inside, other=0.0)
    for i in range(n):
        column = tl.sum(tl.where(c[:, None] == i, w, 0.0), 0)
        group = 0 if ONE_GROUP else tl.load(groups + i)
        s = tl.load(scale + group * rows + r, mask=own, other=1.0)
        z = tl.load(zero + group * rows + r, mask=own, other=0.0)
        steps = tl.div_rn(column, s)
        code = clamp(round_even(steps + z) if REAL_ZERO else round_even(steps) + z, LOWEST, MAX)
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
    assert columns.is_contiguous()
    assert keep is None or keep.is_contiguous()
    n, rows = columns.shape
    codes, errors = torch.empty(columns.shape, dtype=torch.uint8, device=columns.device), torch.empty_like(columns)
    first = groups[0]
    one = all(group == first for group in groups)
    scale, zero = ((t[first] if one else t).contiguous() for t in (params.scale, params.zero_point))
    index = None if one else torch.tensor(groups, dtype=torch.int32, device=columns.device)
    gptq_kernel[(triton.cdiv(rows, _ROWS),)](
        columns, factor.contiguous(), None if correction is None else correction.contiguous(), keep, scale, zero, index,
        codes, errors, n, rows,
        MAX=format.max_code, LOWEST=1 if format.narrow_range else 0, REAL_ZERO=format.real_zero_point, ONE_GROUP=one,
        CORRECTED=correction is not None, KEEPING=keep is not None, ROWS=_ROWS,
        COLUMNS=max(_LEAST_COLUMNS, triton.next_power_of_2(n)), enable_fp_fusion=False,
    )  # fmt: skip
    return codes, errors


def specializations() -> list[Specialization]:
    """A piece of 128 columns in one group, and with every option."""
    return [_specialization("gptq 16 x 128", _ROWS, plain=True), _specialization("gptq 16 x 128 all options", _ROWS)]


def _specialization(name: str, rows: int, *, plain: bool = False) -> Specialization:
    tensors = dict.fromkeys(("columns", "factor", "scale", "zero", "errors"), "*fp32") | {"codes": "*u8"}
    optional = {"correction": "*fp32", "keep": "*i1", "groups": "*i32"}
    numbers = dict.fromkeys(("n", "rows"), "i32")
    constants = {
        "MAX": 15, "LOWEST": 0, "REAL_ZERO": False, "ONE_GROUP": plain, "CORRECTED": not plain, "KEEPING": not plain,
        "ROWS": rows, "COLUMNS": 128,
    } | (dict.fromkeys(optional) if plain else {})  # fmt: skip
    arguments = tensors | numbers | ({} if plain else optional)
    return Specialization(name, gptq_kernel, arguments, constants, fp_fusion=False, aligned=("n", "rows"))
