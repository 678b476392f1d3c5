"""The column loop that GPTQ and its relatives share: quantize a column, hand its error to those that follow."""

from dataclasses import replace

import torch
from torch import Tensor

from quantbench.formats import GroupParams, IntFormat, Outliers, QuantizedWeight, Settled
from quantbench.kernels.gptq import fit_and_quantize_piece, piece_length, quantize_piece
from quantbench.methods.curvature import Curvature
from quantbench.methods.grid import Grid
from quantbench.methods.range.minmax import MinMax


class ColumnLoop:
    """Quantizes W [out, in] column by column with error feedback.

    Weights are kept transposed, [in, out], so that a column is contiguous. order: the columns' permutation, None for
    their own order; static: parameters of all groups, fitted beforehand; otherwise a group is fitted when its first
    column is reached, from weights that carry all earlier errors.
    """

    def __init__(
        self,
        weight: Tensor,
        grid: Grid,
        curvature: Curvature,
        factor: Tensor,
        *,
        order: Tensor | None = None,
        static: Settled | None = None,
        keep: Tensor | None = None,
        correction: Tensor | None = None,
    ) -> None:
        """weight [out, in], curvature and keep (bool [out, in]) in the original column order; factor in the new one.

        correction [in, in], in the new order, strictly upper triangular: what a column, as it is when its turn comes,
        adds to those that follow beside its error.
        """
        count = weight.shape[1]
        original = torch.arange(count, device=weight.device) if order is None else order
        self.grid, self.factor, self.order, self.static = grid, factor, order, static
        self.correction = correction
        self.columns = weight.T[original].contiguous()
        self.keep = None if keep is None else keep.T[original].contiguous()
        self.curvature = curvature if order is None else curvature.columns(order)
        self.codes = torch.empty(self.columns.shape, dtype=torch.uint8, device=weight.device)
        self.groups = grid.format.group_slices(count)
        self.group_size = grid.format.group_size or count
        # With static groups a permuted column keeps the group of its original place; otherwise groups follow the order.
        places = original if static is not None else torch.arange(count, device=weight.device)
        self.group_index = places // self.group_size
        self.group_of: list[int] = self.group_index.tolist()
        # groups fit into a piece, and their ranges are all that parameters take: both are found in one go
        whole_groups = static is None and self.group_size <= piece_length(self.columns)
        self.fits_inside = whole_groups and isinstance(grid.format, IntFormat) and grid.range == MinMax()
        self.fitted: list[Settled] = []
        if static is not None:
            self.params = _by_group(static.params)

    def run(self, block_size: int) -> QuantizedWeight:
        """Quantize every column.

        Errors reach later columns in three steps, so that most of the work is in matrix products: at once within a
        piece of a block, after the piece in the rest of the block, after the block in the rest of the matrix.
        """
        errors = torch.empty_like(self.columns)
        self.fits_inside &= self.group_size <= block_size
        for block in self._blocks(block_size):
            for piece in self._pieces(block):
                self._quantize_piece(piece, errors)
                self._spread(piece, slice(piece.stop, block.stop), errors)
            self._spread(block, slice(block.stop, len(errors)), errors)
        return self._result()

    def _quantize_piece(self, piece: slice, errors: Tensor) -> None:
        """Store the codes of some columns; ``errors`` [in, out] gets what each did, over the factor's diagonal."""
        options = {
            "correction": None if self.correction is None else self.correction[piece, piece],
            "keep": None if self.keep is None else self.keep[piece],
        }
        columns, factor, format = self.columns[piece], self.factor[piece, piece], self.grid.format
        if self.fits_inside and isinstance(format, IntFormat):
            found = fit_and_quantize_piece(columns, factor, format, self.group_size, **options)
            self.codes[piece], errors[piece] = found[:2]
            self.fitted.append(Settled(found[2].map(lambda t: t.T)))
        else:
            params, groups = self._params(piece)
            self.codes[piece], errors[piece] = quantize_piece(columns, factor, params, groups, format, **options)

    def _spread(self, done: slice, rest: slice, errors: Tensor) -> None:
        """Hand the errors of quantized columns to others (GPTQ, eq. 4)."""
        self.columns[rest].addmm_(self.factor[done, rest].T, errors[done], alpha=-1)
        if self.correction is not None:
            self.columns[rest].addmm_(self.correction[done, rest].T, self.columns[done])

    def _blocks(self, length: int) -> list[slice]:
        """Spans of at most ``length`` columns (at least a group, when groups are smaller) that end on group borders.

        So a dynamic group never starts on stale weights.
        """
        whole = slice(0, len(self.columns))
        if self.static is None and self.group_size <= length:
            return _cut(whole, length // self.group_size * self.group_size)
        return self._spans(whole, length)

    def _pieces(self, block: slice) -> list[slice]:
        """A block in pieces: of whole groups that are fitted on the way, or each within one, fitted when it begins."""
        if self.fits_inside:
            return _cut(block, piece_length(self.columns) // self.group_size * self.group_size)
        return self._spans(block, piece_length(self.columns))

    def _spans(self, whole: slice, length: int) -> list[slice]:
        """Spans of at most ``length`` columns; with dynamic groups each lies within one."""
        if self.static is not None:
            return _cut(whole, length)
        borders = range(whole.start - whole.start % self.group_size, whole.stop, self.group_size)
        groups = [slice(max(whole.start, start), min(start + self.group_size, whole.stop)) for start in borders]
        return [span for group in groups for span in _cut(group, length)]

    def _params(self, piece: slice) -> tuple[GroupParams, list[int]]:
        """Parameters [groups, out] and which of them each column has; a dynamic group is fitted at its first column."""
        if self.static is None:
            group = self.group_of[piece.start]
            if group == len(self.fitted):
                self._fit(self.groups[group])
            return self.params, [0] * (piece.stop - piece.start)
        return self.params, self.group_of[piece]

    def _fit(self, span: slice) -> None:
        """Fit the next dynamic group, to its columns as they are now."""
        weight = self.columns[span] if self.keep is None else self.columns[span].masked_fill(self.keep[span], 0)
        fitted = self.grid.fit(weight.T, self.curvature.columns(span))
        self.fitted.append(self.grid.format.settle(fitted))
        self.params = _by_group(self.fitted[-1].params)

    def _result(self) -> QuantizedWeight:
        """Codes back in the original column order."""
        columns, codes, group_index, keep = self.columns, self.codes, None, self.keep
        settled = self.static or Settled.concatenated(self.fitted)
        if self.order is not None:
            inverse = torch.argsort(self.order)
            columns, codes = columns[inverse], codes[inverse]
            keep = None if keep is None else keep[inverse]
            group_index = None if self.static is not None or len(self.groups) == 1 else self.group_index[inverse]
        quantized = QuantizedWeight(
            self.grid.format, codes.T.contiguous(), settled.params, settled.levels, group_index=group_index
        )
        return quantized if keep is None else replace(quantized, outliers=Outliers.of(columns.T, keep.T))


def _by_group(params: GroupParams) -> GroupParams:
    """Parameters [out, groups] as [groups, out], those of a group contiguous: the loop reads them once a column."""
    return params.map(lambda t: t.transpose(0, 1).contiguous())


def _cut(whole: slice, length: int) -> list[slice]:
    return [slice(start, min(start + length, whole.stop)) for start in range(whole.start, whole.stop, length)]
