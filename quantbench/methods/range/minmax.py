"""Min-max range: nothing is clipped."""

from dataclasses import dataclass

from torch import Tensor

from quantbench.formats import Format, GroupParams
from quantbench.methods.curvature import Curvature
from quantbench.methods.range.base import Range, weight_range


@dataclass
class MinMax(Range):
    """The smallest interval that holds every weight of the group and zero (absmax when the format is symmetric)."""

    def fit(self, weight: Tensor, format: Format, curvature: Curvature | None) -> GroupParams:
        return format.params(*weight_range(weight))
