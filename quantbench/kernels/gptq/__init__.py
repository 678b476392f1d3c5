"""GPTQ's inner loop: quantize a few columns one after the other, each error at once to those that follow."""

from collections.abc import Sequence

import torch
from torch import Tensor

from quantbench.formats import Format, GroupParams, IntFormat
from quantbench.kernels.dispatch import use_triton
from quantbench.kernels.gptq import reference
from quantbench.kernels.gptq.reference import quantize_column

__all__ = ["KERNEL_PIECE", "PIECE", "fit_and_quantize_piece", "piece_length", "quantize_column", "quantize_piece"]
PIECE = 32  # columns; on a processor longer pieces leave less of the work to matrix products
KERNEL_PIECE = 128  # what a block of threads holds in registers


def piece_length(columns: Tensor) -> int:
    """How many columns :func:`quantize_piece` should get at a time."""
    return KERNEL_PIECE if use_triton(columns) else PIECE


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
    """Codes uint8 and errors fp32, [n, rows] each, of ``columns`` fp32 [n, rows].

    ``columns`` is changed in place: each is left as it was when its turn came, with all errors of those before it.
    An error is what quantization did to a weight over the factor's diagonal (Frantar et al., arXiv 2210.17323, eq. 3).
    factor: upper triangular [n, n]; params: [groups, rows], of which column i has number ``groups[i]``; correction
    [n, n], strictly upper triangular: what a column adds to those that follow beside its error; keep: bool [n, rows],
    weights that stay as they are, in float16.
    """
    if use_triton(columns) and isinstance(format, IntFormat):
        from quantbench.kernels.gptq import triton

        with torch.cuda.device_of(columns):
            return triton.quantize_piece(columns, factor, params, groups, format, correction=correction, keep=keep)
    return reference.quantize_piece(columns, factor, params, groups, format, correction=correction, keep=keep)


def fit_and_quantize_piece(
    columns: Tensor,
    factor: Tensor,
    format: IntFormat,
    group_size: int,
    *,
    correction: Tensor | None = None,
    keep: Tensor | None = None,
) -> tuple[Tensor, Tensor, GroupParams]:
    """:func:`quantize_piece` that also finds the parameters [groups, rows] of the columns' groups, on their ranges.

    A group is fitted when the turn of its first column comes, from weights that carry all errors until then; what is
    kept counts as zero. columns begin with a group and end with one, or with the last of the matrix.
    """
    if use_triton(columns):
        from quantbench.kernels.gptq import triton

        with torch.cuda.device_of(columns):
            return triton.fit_and_quantize_piece(columns, factor, format, group_size, correction=correction, keep=keep)
    return reference.fit_and_quantize_piece(columns, factor, format, group_size, correction=correction, keep=keep)
