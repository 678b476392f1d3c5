"""The column loop that GPTQ and its relatives share: quantize a column, hand its error to those that follow."""

from dataclasses import replace

import torch
from torch import Tensor

from quantbench.formats import GroupParams, Outliers, QuantizedWeight, Settled
from quantbench.formats.outliers import stored_value
from quantbench.methods.curvature import Curvature
from quantbench.methods.grid import Grid


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
        # one contiguous row a group: the loop reads a group's parameters once a column
        self.static_rows = None if static is None else static.params.map(lambda t: t.transpose(0, 1).contiguous())
        self.codes = torch.empty(self.columns.shape, dtype=torch.uint8, device=weight.device)
        self.groups = grid.format.group_slices(count)
        size = grid.format.group_size or count
        # With static groups a permuted column keeps the group of its original place; otherwise groups follow the order.
        self.group_of = (original if static is not None else torch.arange(count, device=weight.device)) // size
        self.fitted: list[Settled] = []

    def run(self, block_size: int) -> QuantizedWeight:
        """Quantize every column; blocks are cut so that a dynamic group never starts on stale weights."""
        group_of = self.group_of.tolist()
        for block in self._blocks(block_size):
            errors = torch.empty_like(self.columns[block])
            for i in range(block.start, block.stop):
                column = self.columns[i]
                error = (column - self._quantize(i, group_of[i])).div_(self.factor[i, i])
                # GPTQ, eq. 3: the not yet quantized columns of the block take their share of the error
                self.columns[i + 1 : block.stop].addr_(self.factor[i, i + 1 : block.stop], error, alpha=-1)
                if self.correction is not None:
                    self.columns[i + 1 : block.stop].addr_(self.correction[i, i + 1 : block.stop], column)
                errors[i - block.start] = error
            rest = self.factor[block, block.stop :]
            self.columns[block.stop :].addmm_(rest.T, errors, alpha=-1)
            if self.correction is not None:
                self.columns[block.stop :].addmm_(self.correction[block, block.stop :].T, self.columns[block])
        return self._result()

    def _quantize(self, i: int, group: int) -> Tensor:
        """Store the codes of column i and return the values they stand for, [out]."""
        column, params = self.columns[i], self._params(group, i)
        code = self.grid.format.encode(column, params)
        self.codes[i] = code
        value = self.grid.format.decode(code, params)
        return value if self.keep is None else torch.where(self.keep[i], stored_value(column), value)

    def _blocks(self, block_size: int) -> list[slice]:
        """Spans of at most block_size columns (at least a group, when groups are smaller) that end on group borders."""
        count = len(self.columns)
        size = self.grid.format.group_size or count
        if self.static is not None:
            return [slice(s, min(s + block_size, count)) for s in range(0, count, block_size)]
        span = max(1, block_size // size) * size
        outer = [slice(s, min(s + span, count)) for s in range(0, count, span)]
        if size <= block_size:
            return outer
        return [slice(s, min(s + block_size, o.stop)) for o in outer for s in range(o.start, o.stop, block_size)]

    def _params(self, group: int, column: int) -> GroupParams:
        """The group's parameters [out]; a dynamic group is fitted when its first column is reached."""
        if self.static_rows is not None:
            return self.static_rows.map(lambda t: t[group])
        if group == len(self.fitted):
            span = self.groups[group]
            assert span.start == column
            weight = self.columns[span] if self.keep is None else self.columns[span].masked_fill(self.keep[span], 0)
            fitted = self.grid.fit(weight.T, self.curvature.columns(span))
            self.fitted.append(self.grid.format.settle(fitted))
        return self.fitted[group].params.at(0)

    def _result(self) -> QuantizedWeight:
        """Codes back in the original column order."""
        columns, codes, group_index, keep = self.columns, self.codes, None, self.keep
        settled = self.static or Settled.concatenated(self.fitted)
        if self.order is not None:
            inverse = torch.argsort(self.order)
            columns, codes = columns[inverse], codes[inverse]
            keep = None if keep is None else keep[inverse]
            group_index = None if self.static is not None or len(self.groups) == 1 else self.group_of[inverse]
        quantized = QuantizedWeight(
            self.grid.format, codes.T.contiguous(), settled.params, settled.levels, group_index=group_index
        )
        return quantized if keep is None else replace(quantized, outliers=Outliers.of(columns.T, keep.T))
