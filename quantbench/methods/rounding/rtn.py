"""Round to nearest."""

from dataclasses import dataclass, replace

from torch import Tensor

from quantbench.formats import Outliers
from quantbench.methods.grid import Grid
from quantbench.methods.rounding.base import NO_TOKENS, Rounded, Rounding, without_kept
from quantbench.methods.stats import SiteStats


@dataclass
class RTN(Rounding):
    """Each weight gets its nearest code; the baseline that every method must beat."""

    def round(self, weight: Tensor, grid: Grid, stats: SiteStats | None, *, keep: Tensor | None = None) -> Rounded:
        notes: tuple[str, ...] = ()
        known = stats is not None and stats.count > 0
        if not known and (grid.range.needs_calibration or grid.range.needs_fisher):
            notes = (f"{NO_TOKENS}: range fitted to the weights alone",)
        curvature = stats.curvature if stats is not None and known else None
        quantized = grid.nearest(without_kept(weight, keep), curvature)
        if keep is not None:
            quantized = replace(quantized, outliers=Outliers.of(weight, keep))
        return Rounded(quantized, notes)
