"""Round to nearest."""

from dataclasses import dataclass

from torch import Tensor

from quantbench.methods.grid import Grid
from quantbench.methods.rounding.base import Rounded, Rounding
from quantbench.methods.stats import SiteStats


@dataclass
class RTN(Rounding):
    """Each weight gets its nearest code; the baseline that every method must beat."""

    def round(self, weight: Tensor, grid: Grid, stats: SiteStats | None) -> Rounded:
        return Rounded(grid.nearest(weight, stats.hessian if stats is not None and stats.count else None))
