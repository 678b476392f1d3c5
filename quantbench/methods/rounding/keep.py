"""No rounding: the full-precision reference."""

from dataclasses import dataclass

from torch import Tensor

from quantbench.methods.grid import Grid
from quantbench.methods.rounding.base import Rounded, Rounding
from quantbench.methods.stats import SiteStats


@dataclass
class KeepFullPrecision(Rounding):
    """Leaves every weight as it is. The run measures the reference that all others are compared with."""

    @property
    def quantizes(self) -> bool:
        return False

    def round(self, weight: Tensor, grid: Grid, stats: SiteStats | None, *, keep: Tensor | None = None) -> Rounded:
        raise RuntimeError("the full-precision choice quantizes nothing")
