"""GPTQ's inner loop in torch, for every format."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from quantbench.formats import Format, GroupParams, IntFormat
from quantbench.formats.outliers import stored_value


def quantize_piece(
    columns: Tensor,
    factor: Tensor,
    params: GroupParams,
    groups: Sequence[int],
    format: Format,
    *,
    correction: Tensor | None = None,
    keep: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Codes and errors [n, rows]; ``columns`` is changed in place."""
    known = {group: params.map(lambda t, g=group: t[g]) for group in set(groups)}  # type: ignore[misc]
    return _quantize(columns, factor, lambda i: known[groups[i]], format, correction, keep)


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
    fitted: list[GroupParams] = []

    def params(i: int) -> GroupParams:
        if i % group_size == 0:
            span = slice(i, i + group_size)
            low, high = (columns[span] if keep is None else columns[span].masked_fill(keep[span], 0)).aminmax(dim=0)
            fitted.append(format.params(low.clamp(max=0), high.clamp(min=0)))
        return fitted[-1]

    codes, errors = _quantize(columns, factor, params, format, correction, keep)
    scale, zero = (torch.stack([getattr(p, name) for p in fitted]) for name in ("scale", "zero_point"))
    return codes, errors, GroupParams(scale, zero)


def _quantize(
    columns: Tensor,
    factor: Tensor,
    params: Callable[[int], GroupParams],
    format: Format,
    correction: Tensor | None,
    keep: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The loop; params: of a column, asked for when its turn comes."""
    codes = torch.empty(columns.shape, dtype=torch.uint8, device=columns.device)
    errors = torch.empty_like(columns)
    rows, lost, pivots = factor.unbind(), errors.unbind(), factor.diagonal().tolist()
    for i, column in enumerate(columns.unbind()):
        codes[i], value = quantize_column(column, params(i), format, None if keep is None else keep[i])
        torch.sub(column, value, out=lost[i]).div_(pivots[i])
        # GPTQ, eq. 3: the not yet quantized columns take their share of the error
        columns[i + 1 :].addr_(rows[i][i + 1 :], lost[i], alpha=-1)
        if correction is not None:
            columns[i + 1 :].addr_(correction[i, i + 1 :], column)
    return codes, errors


def quantize_column(column: Tensor, params: GroupParams, format: Format, keep: Tensor | None) -> tuple[Tensor, Tensor]:
    """Codes of one column [rows] and the values that they stand for, or float16's where ``keep`` (bool) is true."""
    code = format.encode(column, params)
    value = format.decode(code, params)
    return code, value if keep is None else torch.where(keep, stored_value(column), value)
