"""HQQ as a range: the min-max grid, moved by the half-quadratic solver."""

from dataclasses import dataclass

from torch import Tensor

from quantbench.formats import Format, GroupParams
from quantbench.methods.curvature import Curvature
from quantbench.methods.range.base import Range
from quantbench.methods.range.half_quadratic import HalfQuadratic
from quantbench.methods.range.minmax import MinMax


@dataclass
class HQQ(HalfQuadratic, Range):
    """The min-max grid refined by HQQ's solver, so that another rounding (GPTQ) can be used on HQQ's grid."""

    def fit(self, weight: Tensor, format: Format, curvature: Curvature | None) -> GroupParams:
        return self.refine(weight, MinMax().fit(weight, format, curvature), format)
