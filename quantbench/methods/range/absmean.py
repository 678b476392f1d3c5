"""The mean magnitude as the range: BitNet's scale."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from quantbench.formats import Binary, Format, GroupParams
from quantbench.methods.curvature import Curvature
from quantbench.methods.range.base import Range

if TYPE_CHECKING:
    from quantbench.methods.variant import Variant


@dataclass
class AbsMean(Range):
    """[-mean|w|, mean|w|], for formats whose largest value stands for a typical weight: ternary (BitNet b1.58,
    arXiv 2402.17764, eq. 3; its eps only guards against an all-zero matrix) and binary (BitNet, arXiv 2310.11453).

    center: subtract mean(w) before the sign is taken (BitNet, eq. 1-3); allowed with the binary format only.
    """

    center: bool = False

    def check(self, variant: "Variant") -> None:
        if self.center and not isinstance(variant.format, Binary):
            raise ValueError("range.center=true: allowed only with format=binary")

    def fit(self, weight: Tensor, format: Format, curvature: Curvature | None) -> GroupParams:
        gamma = weight.abs().mean(1, keepdim=True)
        params = format.params(-gamma, gamma)
        return params._replace(zero_point=weight.mean(1, keepdim=True)) if self.center else params
