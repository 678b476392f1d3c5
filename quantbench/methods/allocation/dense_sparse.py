"""SqueezeLLM's decomposition of a matrix into dense codes and sparse full-precision weights."""

from dataclasses import dataclass

from torch import Tensor

from quantbench.methods.allocation.base import Allocation, Kept
from quantbench.methods.allocation.criteria import top
from quantbench.methods.allocation.keep import Keep, check_fraction
from quantbench.methods.grid import Grid
from quantbench.methods.stats import SiteStats

SENSITIVITIES = ("fisher", "hessian")


@dataclass
class DenseSparse(Allocation):
    """Sensitive weights, and outliers among the others, in 16 bits (SqueezeLLM, arXiv 2306.07629, sec. 4.2).

    sensitive: the fraction of each matrix with the greatest sensitivity; outliers: the fraction with the greatest
    magnitude among what is left. sensitivity: ``fisher``, the squared gradient, as the authors; ``hessian`` needs no
    backward pass. The authors cut outliers at one multiple of every matrix's interquartile range, tuned until 0.45 % of
    the model's weights lie outside; here each matrix has that share.
    """

    outliers: float = 0.0045
    sensitive: float = 0.0005
    sensitivity: str = "fisher"

    def __post_init__(self) -> None:
        check_fraction("outliers", self.outliers)
        check_fraction("sensitive", self.sensitive)
        if self.outliers + self.sensitive > 1:
            raise ValueError(f"allocation.outliers={self.outliers}: allowed are fractions up to 1 - sensitive")
        if self.sensitivity not in SENSITIVITIES:
            raise ValueError(f"allocation.sensitivity={self.sensitivity}: allowed are {', '.join(SENSITIVITIES)}")

    @property
    def needs_calibration(self) -> bool:
        return self.sensitive > 0

    @property
    def needs_fisher(self) -> bool:
        return self.sensitive > 0 and self.sensitivity == "fisher"

    def keep(self, weight: Tensor, grid: Grid, stats: SiteStats | None) -> Kept:
        if not self.sensitive:
            return Kept(top(weight.abs(), self.outliers, "matrix"))
        sensitive = Keep(criterion=self.sensitivity, fraction=self.sensitive).keep(weight, grid, stats)
        assert sensitive.mask is not None
        rest = weight.abs().masked_fill(sensitive.mask, -1)  # below every other, so that the two do not overlap
        return Kept(sensitive.mask | top(rest, self.outliers, "matrix"), sensitive.notes)
