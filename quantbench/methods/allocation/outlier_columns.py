"""LLM.int8()'s columns: those that read outliers keep their weights in 16 bits."""

from dataclasses import dataclass

from torch import Tensor

from quantbench.methods.allocation.base import Allocation, Kept
from quantbench.methods.grid import Grid
from quantbench.methods.rounding.base import NO_TOKENS
from quantbench.methods.stats import SiteStats


@dataclass
class OutlierColumns(Allocation):
    """Columns whose input reached ``threshold`` in any calibration token stay in 16 bits (arXiv 2208.07339, sec. 3.2).

    The other half of ``activation=llm_int8``, which leaves such inputs as they are. The paper chooses columns as inputs
    come, and so keeps all weights in 16 bits beside their codes; here they are chosen once, so that what is kept can be
    counted. A matrix that no token reached keeps none.
    """

    threshold: float = 6.0

    def __post_init__(self) -> None:
        if not self.threshold > 0:
            raise ValueError(f"allocation.threshold={self.threshold}: allowed are positive numbers")

    @property
    def needs_calibration(self) -> bool:
        return True

    def keep(self, weight: Tensor, grid: Grid, stats: SiteStats | None) -> Kept:
        if stats is None or not stats.count:
            return Kept(notes=(f"{NO_TOKENS}: no column kept",))
        columns = stats.absmax >= self.threshold
        return Kept(columns.expand_as(weight) if bool(columns.any()) else None)
