"""GPTQ: quantize column by column and let the remaining columns absorb each column's error."""

from dataclasses import dataclass

import torch
from torch import Tensor

from quantbench.formats import GroupParams, QuantizedWeight
from quantbench.methods.grid import Grid
from quantbench.methods.rounding.base import NO_TOKENS, Rounded, Rounding
from quantbench.methods.rounding.factor import inverse_factor
from quantbench.methods.stats import SiteStats


@dataclass
class GPTQ(Rounding):
    """GPTQ (Frantar et al., arXiv 2210.17323), defaults of the authors' code.

    damp_percent: fraction of mean(diag H) added to the diagonal. block_size: columns whose errors are gathered before
    the rest of the matrix is updated; it does not change the result beyond rounding. act_order: columns in order of
    falling diag H (desc_act). static_groups: fit all groups before the first column moves, so that act_order needs no
    group index. true_sequential: within a block, later layers are calibrated on the outputs of quantized earlier ones.

    A group's scale is fitted when its first column is reached, from weights that carry all earlier errors (the authors'
    code fits groups smaller than a block on weights that lack those of their own block). Rules for
    the exceptional: a column that was never active (diag H = 0) is set to zero; a matrix without any calibration token
    is rounded to nearest; a Hessian that is not positive definite gets ten times the damping, up to 1.
    """

    damp_percent: float = 0.01
    block_size: int = 128
    act_order: bool = False
    static_groups: bool = False
    true_sequential: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.damp_percent <= 1:
            raise ValueError(f"rounding.damp_percent={self.damp_percent}: allowed are fractions above 0 and up to 1")
        if self.block_size < 1:
            raise ValueError(f"rounding.block_size={self.block_size}: allowed is a positive integer")

    @property
    def sequential(self) -> bool:
        return self.true_sequential

    @property
    def needs_calibration(self) -> bool:
        return True

    def round(self, weight: Tensor, grid: Grid, stats: SiteStats | None) -> Rounded:
        if stats is None or stats.count == 0:
            return Rounded(grid.nearest(weight, None), (f"{NO_TOKENS}: rounded to nearest",))
        hessian, weight = stats.hessian, weight.clone()
        dead = hessian.diagonal() == 0
        notes = [f"{int(dead.sum())} input channels never active: their weights set to zero"] if dead.any() else []
        weight[:, dead] = 0
        hessian.diagonal()[dead] = 1
        order = torch.argsort(hessian.diagonal(), descending=True, stable=True) if self.act_order else None
        static = grid.fit_groups(weight, hessian) if self.static_groups else None
        if order is not None:
            weight, hessian = weight[:, order], hessian[order][:, order]
        factor, used_damp = inverse_factor(hessian, self.damp_percent)
        if used_damp > self.damp_percent:
            notes.append(f"Hessian not positive definite: damp_percent raised to {used_damp:g}")
        solver = _ColumnSolver(weight.T.contiguous(), grid, hessian, factor, order, static)
        solver.run(self.block_size)
        return Rounded(solver.result(), tuple(notes))


class _ColumnSolver:
    """The column loop. Weights are kept transposed, [in, out], so that a column is contiguous."""

    def __init__(
        self,
        columns: Tensor,
        grid: Grid,
        hessian: Tensor,
        factor: Tensor,
        order: Tensor | None,
        static: GroupParams | None,
    ) -> None:
        self.columns, self.grid, self.hessian, self.factor = columns, grid, hessian, factor
        self.order, self.static = order, static
        # one contiguous row a group: the loop reads a group's scales once a column
        self.static_rows = None if static is None else GroupParams(*(p.T.contiguous() for p in static))
        count = len(columns)
        self.codes = torch.empty(columns.shape, dtype=torch.uint8, device=columns.device)
        self.groups = grid.format.group_slices(count)
        size = grid.format.group_size or count
        original = torch.arange(count, device=columns.device) if order is None else order
        # With static groups a permuted column keeps the group of its original place; otherwise groups follow the order.
        self.group_of = (original if static is not None else torch.arange(count, device=columns.device)) // size
        self.fitted: list[GroupParams] = []

    def run(self, block_size: int) -> None:
        """Quantize every column; blocks are cut so that a dynamic group never starts on stale weights."""
        group_of = self.group_of.tolist()
        for block in self._blocks(block_size):
            errors = torch.empty_like(self.columns[block])
            for i in range(block.start, block.stop):
                params = self._params(group_of[i], i)
                column = self.columns[i]
                code = self.grid.format.encode(column, params)
                error = (column - self.grid.format.decode(code, params)).div_(self.factor[i, i])
                # eq. 3 of the paper: the not yet quantized columns of the block take their share of the error
                self.columns[i + 1 : block.stop].addr_(self.factor[i, i + 1 : block.stop], error, alpha=-1)
                self.codes[i], errors[i - block.start] = code, error
            rest = self.factor[block, block.stop :]
            self.columns[block.stop :].addmm_(rest.T, errors, alpha=-1)

    def _blocks(self, block_size: int) -> list[slice]:
        """Spans of at most block_size columns (at least a group, when groups are smaller) that end on group borders."""
        size = self.grid.format.group_size or len(self.columns)
        if self.static is not None:
            return [slice(s, min(s + block_size, len(self.columns))) for s in range(0, len(self.columns), block_size)]
        span = max(1, block_size // size) * size
        outer = [slice(s, min(s + span, len(self.columns))) for s in range(0, len(self.columns), span)]
        if size <= block_size:
            return outer
        return [slice(s, min(s + block_size, o.stop)) for o in outer for s in range(o.start, o.stop, block_size)]

    def _params(self, group: int, column: int) -> GroupParams:
        """The group's scale and zero-point [out]; a dynamic group is fitted when its first column is reached."""
        if self.static_rows is not None:
            return GroupParams(self.static_rows.scale[group], self.static_rows.zero_point[group])
        if group == len(self.fitted):
            span = self.groups[group]
            assert span.start == column
            self.fitted.append(self.grid.fit(self.columns[span].T, self.hessian[span, span]))
        fitted = self.fitted[group]
        return GroupParams(fitted.scale[:, 0], fitted.zero_point[:, 0])

    def result(self) -> QuantizedWeight:
        """Codes back in the original column order."""
        codes, group_index = self.codes, None
        params = self.static
        if params is None:
            params = GroupParams(*(torch.cat([p[k] for p in self.fitted], 1) for k in (0, 1)))
        if self.order is not None:
            inverse = torch.argsort(self.order)
            codes = codes[inverse]
            group_index = None if self.static is not None or len(self.groups) == 1 else self.group_of[inverse]
        return QuantizedWeight(
            self.grid.format, codes.T.contiguous(), params.scale, params.zero_point, group_index=group_index
        )
