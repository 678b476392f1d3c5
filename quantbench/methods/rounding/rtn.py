"""Round to nearest."""

from dataclasses import dataclass

from torch import Tensor

from quantbench.methods.grid import Grid
from quantbench.methods.rounding.base import NO_TOKENS, Rounded, Rounding
from quantbench.methods.stats import SiteStats


@dataclass
class RTN(Rounding):
    """Each weight gets its nearest code; the baseline that every method must beat."""

    def round(self, weight: Tensor, grid: Grid, stats: SiteStats | None) -> Rounded:
        if stats is not None and stats.count:
            return Rounded(grid.nearest(weight, stats.hessian))
        notes = (f"{NO_TOKENS}: range fitted to the weights alone",) if grid.range.needs_calibration else ()
        return Rounded(grid.nearest(weight, None), notes)
