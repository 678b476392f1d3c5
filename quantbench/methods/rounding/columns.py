"""The column loop that GPTQ and its relatives share: quantize a column, hand its error to those that follow."""

from dataclasses import replace

import torch
from torch import Tensor

from quantbench.formats import GroupParams, Outliers, QuantizedWeight, Settled
from quantbench.formats.outliers import stored_value
from quantbench.methods.curvature import Curvature
from quantbench.methods.grid import Grid

_PIECE = 32  # columns whose errors reach each other one by one; longer pieces do more of the work column by column


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
        size = grid.format.group_size or count
        # With static groups a permuted column keeps the group of its original place; otherwise groups follow the order.
        self.group_index = (original if static is not None else torch.arange(count, device=weight.device)) // size
        self.group_of: list[int] = self.group_index.tolist()
        self.fitted: list[Settled] = []
        self.params: dict[int, GroupParams] = {}
        if static is not None:
            # the loop reads a group's parameters once a column: each [out] contiguous
            params = static.params.map(lambda t: t.transpose(0, 1).contiguous().transpose(0, 1))
            self.params = {group: params.at(group) for group in range(len(self.groups))}

    def run(self, block_size: int) -> QuantizedWeight:
        """Quantize every column.

        Errors reach later columns in three steps, so that most of the work is in matrix products: at once within a
        piece of a block, after the piece in the rest of the block, after the block in the rest of the matrix.
        """
        errors = torch.empty_like(self.columns)
        for block in self._blocks(block_size):
            for piece in self._blocks(_PIECE, block):
                self._quantize_piece(piece, errors)
                self._spread(piece, slice(piece.stop, block.stop), errors)
            self._spread(block, slice(block.stop, len(errors)), errors)
        return self._result()

    def _quantize_piece(self, piece: slice, errors: Tensor) -> None:
        """Quantize columns one after the other; ``errors`` [in, out] gets what each did, over the factor's diagonal."""
        block = self.factor[piece, piece]
        rows, pivots = block.unbind(), block.diagonal().tolist()
        columns, lost = self.columns[piece], errors[piece].unbind()
        for i, column in enumerate(columns.unbind()):
            torch.sub(column, self._quantize(piece.start + i, column), out=lost[i]).div_(pivots[i])
            # GPTQ, eq. 3: the not yet quantized columns take their share of the error
            columns[i + 1 :].addr_(rows[i][i + 1 :], lost[i], alpha=-1)
            if self.correction is not None:
                columns[i + 1 :].addr_(self.correction[piece.start + i, piece.start + i + 1 : piece.stop], column)

    def _spread(self, done: slice, rest: slice, errors: Tensor) -> None:
        """Hand the errors of quantized columns to others (GPTQ, eq. 4)."""
        self.columns[rest].addmm_(self.factor[done, rest].T, errors[done], alpha=-1)
        if self.correction is not None:
            self.columns[rest].addmm_(self.correction[done, rest].T, self.columns[done])

    def _quantize(self, i: int, column: Tensor) -> Tensor:
        """Store the codes of column i, which now is ``column`` [out], and return the values they stand for."""
        params = self._params(self.group_of[i], i)
        code = self.grid.format.encode(column, params)
        self.codes[i] = code
        value = self.grid.format.decode(code, params)
        return value if self.keep is None else torch.where(self.keep[i], stored_value(column), value)

    def _blocks(self, length: int, within: slice | None = None) -> list[slice]:
        """Spans of at most ``length`` columns (at least a group, when groups are smaller) that end on group borders.

        So a dynamic group never starts on stale weights. within: what to cut, itself such a span; None is the matrix.
        """
        whole = within or slice(0, len(self.columns))
        size = self.grid.format.group_size or len(self.columns)
        if self.static is not None:
            return _cut(whole, length)
        if size <= length:
            return _cut(whole, length // size * size)
        # a span inside one group ends with it
        borders = range(whole.start - whole.start % size, whole.stop, size)
        groups = [slice(max(whole.start, start), min(start + size, whole.stop)) for start in borders]
        return [span for group in groups for span in _cut(group, length)]

    def _params(self, group: int, column: int) -> GroupParams:
        """The group's parameters [out]; a dynamic group is fitted when its first column is reached."""
        if group not in self.params:
            span = self.groups[group]
            assert span.start == column
            weight = self.columns[span] if self.keep is None else self.columns[span].masked_fill(self.keep[span], 0)
            fitted = self.grid.fit(weight.T, self.curvature.columns(span))
            self.fitted.append(self.grid.format.settle(fitted))
            self.params[group] = self.fitted[group].params.at(0)
        return self.params[group]

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


def _cut(whole: slice, length: int) -> list[slice]:
    return [slice(start, min(start + length, whole.stop)) for start in range(whole.start, whole.stop, length)]
