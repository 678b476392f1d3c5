"""Tables learned by k-means, each weight counted by what an error in it costs."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from quantbench.formats import LUT, Format, GroupParams
from quantbench.methods.curvature import Curvature
from quantbench.methods.range.base import Range
from quantbench.methods.range.clustering import weighted_kmeans

if TYPE_CHECKING:
    from quantbench.methods.variant import Variant

WEIGHTINGS = ("fisher", "hessian", "uniform")


@dataclass
class KMeans(Range):
    """The table of least weighted squared error for each group (SqueezeLLM, Kim et al., arXiv 2306.07629, eq. 3).

    weighting: ``fisher`` counts each weight by its squared gradient (the authors), ``hessian`` by mean x^2 of its input
    channel, ``uniform`` all alike. iterations: at most so many of Lloyd's (the authors run scikit-learn with 50).
    Weights of exactly zero do not count, as in the authors' code: they are what is kept apart in 16 bits, or dead
    channels.
    """

    weighting: str = "fisher"
    iterations: int = 50

    def __post_init__(self) -> None:
        if self.weighting not in WEIGHTINGS:
            raise ValueError(f"range.weighting={self.weighting}: allowed are {', '.join(WEIGHTINGS)}")
        if self.iterations < 1:
            raise ValueError(f"range.iterations={self.iterations}: allowed is a positive integer")

    @property
    def needs_calibration(self) -> bool:
        return self.weighting == "hessian"

    @property
    def needs_fisher(self) -> bool:
        return self.weighting == "fisher"

    def check(self, variant: "Variant") -> None:
        if not isinstance(variant.format, LUT):
            raise ValueError("range=kmeans learns tables: allowed only with format=lut")

    def fit(self, weight: Tensor, format: Format, curvature: Curvature | None) -> GroupParams:
        assert isinstance(format, LUT), "check() refuses other formats"
        importance = torch.ones_like(weight)
        if curvature is not None and self.weighting == "hessian":
            importance = curvature.hessian.diagonal().to(weight.dtype).expand_as(weight)
        elif curvature is not None and self.weighting == "fisher":
            assert curvature.fisher is not None, "needs_fisher asks for it"
            importance = curvature.fisher.to(weight.dtype)
        counted = importance.masked_fill(weight == 0, 0)
        table = weighted_kmeans(weight, counted, format.entries, iterations=self.iterations)
        return format.table_params(table[:, None])
