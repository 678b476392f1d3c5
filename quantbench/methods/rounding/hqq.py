"""HQQ: refine whatever grid the range gives by the half-quadratic solver, then round to nearest."""

from dataclasses import dataclass

from torch import Tensor

from quantbench.formats import Format, GroupParams
from quantbench.methods.curvature import Curvature
from quantbench.methods.grid import Grid
from quantbench.methods.range.base import Range
from quantbench.methods.range.half_quadratic import HalfQuadratic
from quantbench.methods.rounding.base import Rounded, Rounding
from quantbench.methods.rounding.rtn import RTN
from quantbench.methods.stats import SiteStats


@dataclass
class HQQ(HalfQuadratic, Rounding):
    """HQQ (Badri and Shaji 2023): the grid of the range axis, refined without data, and the nearest codes on it."""

    def round(self, weight: Tensor, grid: Grid, stats: SiteStats | None, *, keep: Tensor | None = None) -> Rounded:
        return RTN().round(weight, Grid(grid.format, _Refined(grid.range, self)), stats, keep=keep)


@dataclass
class _Refined(Range):
    """A range whose grids the solver refines."""

    inner: Range
    solver: HalfQuadratic

    @property
    def needs_calibration(self) -> bool:
        return self.inner.needs_calibration

    @property
    def needs_fisher(self) -> bool:
        return self.inner.needs_fisher

    def fit(self, weight: Tensor, format: Format, curvature: Curvature | None) -> GroupParams:
        return self.solver.refine(weight, self.inner.fit(weight, format, curvature), format)
