"""GPTQ's inner loop in torch, for every format."""

from collections.abc import Sequence

import torch
from torch import Tensor

from quantbench.formats import Format, GroupParams
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
    codes = torch.empty(columns.shape, dtype=torch.uint8, device=columns.device)
    errors = torch.empty_like(columns)
    rows, lost, pivots = factor.unbind(), errors.unbind(), factor.diagonal().tolist()
    known = {group: params.map(lambda t, g=group: t[g]) for group in set(groups)}  # type: ignore[misc]
    for i, column in enumerate(columns.unbind()):
        codes[i], value = quantize_column(column, known[groups[i]], format, None if keep is None else keep[i])
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
