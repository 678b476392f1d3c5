"""GPTQ: column by column, the error of each is spread over the columns that are still to come."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from quantbench.methods.curvature import Curvature
from quantbench.methods.grid import Grid
from quantbench.methods.rounding.base import NO_TOKENS, Rounded, Rounding, without_kept
from quantbench.methods.rounding.columns import ColumnLoop
from quantbench.methods.rounding.factor import inverse_factor
from quantbench.methods.rounding.rtn import RTN
from quantbench.methods.stats import SiteStats

if TYPE_CHECKING:
    from quantbench.methods.variant import Variant


@dataclass
class GPTQ(Rounding):
    """GPTQ (Frantar et al., arXiv 2210.17323), defaults of the authors' code.

    damp_percent: fraction of mean(diag H) added to the diagonal. block_size: columns whose errors are gathered before
    the rest of the matrix is updated; it does not change the result beyond rounding. act_order: columns in order of
    falling diag H (desc_act). static_groups: fit all groups before the first column moves, so that act_order needs no
    group index; formats that store the parameters of several groups together are always fitted so. true_sequential:
    within a block, later layers are calibrated on the outputs of quantized earlier ones.

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

    def check(self, variant: "Variant") -> None:
        if self.true_sequential and variant.statistics != "propagate":
            raise ValueError("rounding.true_sequential=true: allowed only with stats=propagate")

    @property
    def sequential(self) -> bool:
        return self.true_sequential

    @property
    def needs_calibration(self) -> bool:
        return True

    def round(self, weight: Tensor, grid: Grid, stats: SiteStats | None, *, keep: Tensor | None = None) -> Rounded:
        if stats is None or stats.count == 0:
            nearest = RTN().round(weight, grid, None, keep=keep).weight
            return Rounded(nearest, (f"{NO_TOKENS}: rounded to nearest",))
        hessian, weight = stats.hessian, weight.clone()
        dead = hessian.diagonal() == 0
        notes = [f"{int(dead.sum())} input channels never active: their weights set to zero"] if dead.any() else []
        weight[:, dead] = 0
        hessian.diagonal()[dead] = 1
        curvature = Curvature(hessian, stats.fisher)
        order = torch.argsort(hessian.diagonal(), descending=True, stable=True) if self.act_order else None
        static = None
        if self.static_groups or grid.static:
            static = grid.fit_groups(without_kept(weight, keep), curvature)
        factor, used_damp = inverse_factor(hessian if order is None else hessian[order][:, order], self.damp_percent)
        if used_damp > self.damp_percent:
            notes.append(f"Hessian not positive definite: damp_percent raised to {used_damp:g}")
        loop = ColumnLoop(weight, grid, curvature, factor, order=order, static=static, keep=keep)
        return Rounded(loop.run(self.block_size), tuple(notes))
