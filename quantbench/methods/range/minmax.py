"""Min-max range: nothing is clipped, or the same share everywhere."""

from dataclasses import dataclass

from torch import Tensor

from quantbench.formats import Format, GroupParams
from quantbench.methods.curvature import Curvature
from quantbench.methods.histogram import Histogram
from quantbench.methods.range.base import CountedRange, counted_range, weight_range


@dataclass
class MinMax(CountedRange):
    """The smallest interval that holds every weight of the group and zero (absmax when the format is symmetric).

    clip: by what its ends are multiplied.
    """

    clip: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.clip <= 1:
            raise ValueError(f"range.clip={self.clip}: allowed are values above 0 and up to 1")

    def fit(self, weight: Tensor, format: Format, curvature: Curvature | None) -> GroupParams:
        low, high = weight_range(weight)
        return format.params(low * self.clip, high * self.clip)

    def fit_counts(self, seen: Histogram, format: Format) -> GroupParams:
        low, high = counted_range(seen)
        return format.params(low * self.clip, high * self.clip)
