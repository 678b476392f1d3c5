"""What roundings with error feedback share: the exceptional cases, the order of the columns, the first fit."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from quantbench.formats import Settled
from quantbench.methods.curvature import Curvature
from quantbench.methods.grid import Grid
from quantbench.methods.rounding.base import NO_TOKENS, Rounded, Rounding, without_kept
from quantbench.methods.rounding.rtn import RTN
from quantbench.methods.stats import SiteStats

if TYPE_CHECKING:
    from quantbench.methods.variant import Variant


@dataclass(frozen=True)
class Problem:
    """One matrix to round: W [out, in] whose never active columns are zero, and what errors in it cost.

    curvature: of the original column order, with ones on the diagonal of never active columns; order: the columns'
    permutation, None for their own order; static: parameters of all groups, None where each is fitted when its first
    column is reached; keep: bool [out, in], what stays in 16 bits.
    """

    weight: Tensor
    grid: Grid
    stats: SiteStats
    curvature: Curvature
    order: Tensor | None
    static: Settled | None
    keep: Tensor | None

    @property
    def hessian(self) -> Tensor:
        """[in, in], in the order in which columns are rounded."""
        return self.permuted(self.curvature.hessian)

    def permuted(self, matrix: Tensor) -> Tensor:
        """A matrix [in, in] over input channels, in the order in which columns are rounded."""
        return matrix if self.order is None else matrix[self.order][:, self.order]


@dataclass
class ErrorFeedback(Rounding, ABC):
    """Rounds column by column; later columns make up for the errors of earlier ones.

    damp_percent: fraction of mean(diag H) added to the diagonal. block_size: columns whose errors are gathered before
    the rest of the matrix is updated; it does not change the result beyond rounding. act_order: columns in order of
    falling diag H (desc_act). true_sequential: within a block, later layers are calibrated on the outputs of quantized
    earlier ones.

    Rules for the exceptional: a column that was never active (diag H = 0) is set to zero; a matrix without any
    calibration token is rounded to nearest; a Hessian that is not positive definite gets ten times the damping, up to
    1.
    """

    damp_percent: float = 0.01
    block_size: int = 128
    act_order: bool = False
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

    def index_bytes(self, grid: Grid, columns: int) -> int:
        grouped = self.act_order and len(grid.format.group_slices(columns)) > 1
        return 4 * columns if grouped and not self.fits_first(grid) else 0

    @abstractmethod
    def fits_first(self, grid: Grid) -> bool:
        """Whether all groups are fitted before the first column moves."""

    @abstractmethod
    def solve(self, problem: Problem) -> Rounded:
        """Round a matrix that calibration tokens reached."""

    def round(self, weight: Tensor, grid: Grid, stats: SiteStats | None, *, keep: Tensor | None = None) -> Rounded:
        if stats is None or stats.count == 0:
            nearest = RTN().round(weight, grid, None, keep=keep).weight
            return Rounded(nearest, (f"{NO_TOKENS}: rounded to nearest",))
        hessian, weight = stats.hessian, weight.clone()
        dead = hessian.diagonal() == 0
        notes = (f"{int(dead.sum())} input channels never active: their weights set to zero",) if dead.any() else ()
        weight[:, dead] = 0
        hessian.diagonal()[dead] = 1
        curvature = Curvature(hessian, stats.fisher)
        order = torch.argsort(hessian.diagonal(), descending=True, stable=True) if self.act_order else None
        static = grid.fit_groups(without_kept(weight, keep), curvature) if self.fits_first(grid) else None
        rounded = self.solve(Problem(weight, grid, stats, curvature, order, static, keep))
        return Rounded(rounded.weight, notes + rounded.notes)

    def damping_notes(self, used: float) -> tuple[str, ...]:
        """What to record where more damping was needed than asked for."""
        if used == self.damp_percent:
            return ()
        return (f"Hessian not positive definite: damp_percent raised to {used:g}",)
