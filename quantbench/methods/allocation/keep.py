"""Keep the most important weights in 16 bits."""

from dataclasses import dataclass

from torch import Tensor

from quantbench.methods.allocation.base import Allocation, Kept
from quantbench.methods.allocation.criteria import CALIBRATED, CRITERIA, SCOPES, score, top
from quantbench.methods.grid import Grid
from quantbench.methods.rounding.base import NO_TOKENS
from quantbench.methods.stats import SiteStats


@dataclass
class Keep(Allocation):
    """The top ``fraction`` of the weights of every matrix stays in 16 bits, as a sparse matrix beside the codes.

    criterion: what makes a weight important, see :func:`quantbench.methods.allocation.criteria.score`; ``channel``
    keeps whole input channels. scope: the fraction is taken of each ``matrix`` or of each of its ``row`` s (output
    channels). seed: of ``random``. A matrix that no calibration token reached keeps its largest weights.
    """

    criterion: str = "magnitude"
    fraction: float = 0.01
    scope: str = "matrix"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.criterion not in CRITERIA:
            raise ValueError(f"allocation.criterion={self.criterion}: allowed are {', '.join(CRITERIA)}")
        check_fraction("fraction", self.fraction)
        if self.scope not in SCOPES:
            raise ValueError(f"allocation.scope={self.scope}: allowed are {', '.join(SCOPES)}")

    @property
    def needs_calibration(self) -> bool:
        return self.criterion in CALIBRATED

    @property
    def needs_fisher(self) -> bool:
        return self.criterion == "fisher"

    def keep(self, weight: Tensor, grid: Grid, stats: SiteStats | None) -> Kept:
        if self.needs_calibration and (stats is None or not stats.count):
            return Kept(top(weight.abs(), self.fraction, self.scope), (f"{NO_TOKENS}: its largest weights kept",))
        scores = score(self.criterion, weight, grid, stats, seed=self.seed)
        return Kept(top(scores, self.fraction, self.scope).expand_as(weight))


def check_fraction(name: str, value: float) -> None:
    """Refuse a fraction of the weights that is not between 0 and 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"allocation.{name}={value}: allowed are fractions from 0 to 1")
