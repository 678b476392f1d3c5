"""Outlier Suppression+: channels are centred, then those that stick out are scaled down."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from quantbench.methods.transform.base import SiteProblem, SiteScaling
from quantbench.methods.transform.smooth import SITES

if TYPE_CHECKING:
    from quantbench.methods.variant import Variant

_LEAST_THRESHOLD = 0.1  # where the authors' search ends


@dataclass
class OSPlus(SiteScaling):
    """Outlier Suppression+ (Wei et al., arXiv 2304.09145).

    shift: z_j = (max x_j + min x_j) / 2 is taken from channel j (eq. 3) and given back by the biases of the linears
    that read it; where a norm or a linear has no bias it gets one. Only what a norm produces is shifted. Scaling: s_j =
    max(1, max|x_j - z_j| / t) (eq. 7) with the t of least squared error of the linears' outputs when inputs and weights
    are rounded (eq. 6), out of ``steps`` even steps from the largest magnitude down to 0.1 as in the authors' code;
    that compares the outputs of attention and gate where here each linear's own count. sites: ``all`` or ``norm_fed``,
    see SmoothQuant; the authors scale what norms produce and, in Llama, what down_proj reads.
    """

    shift: bool = True
    steps: int = 100
    sites: str = "all"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"transform.steps={self.steps}: allowed is a positive integer")
        if self.sites not in SITES:
            raise ValueError(f"transform.sites={self.sites}: allowed are {', '.join(SITES)}")

    @property
    def needs_inputs(self) -> bool:
        return True

    @property
    def adds_biases(self) -> bool:
        return self.shift

    def check(self, variant: "Variant") -> None:
        if self.shift and variant.needs_fisher:
            raise ValueError("transform.shift=true changes squared gradients: allowed with Fisher information is false")

    def site_shift(self, problem: SiteProblem) -> Tensor | None:
        if not self.shift or not problem.shiftable or problem.sample is None or problem.sample.ends is None:
            return None
        return problem.sample.ends.mean(0)

    def site_scale(self, problem: SiteProblem) -> Tensor | None:
        if problem.sample is None or problem.sample.ends is None:
            return None
        if self.sites == "norm_fed" and not problem.norm_fed:
            return None
        shift, ends = self.site_shift(problem), problem.sample.ends
        magnitude = (ends if shift is None else ends - shift).abs().amax(0)
        candidates = [self._scale(problem, magnitude, t) for t in self.thresholds(float(magnitude.max()))]
        return problem.best_at_run_time(candidates, shift)

    def thresholds(self, largest: float) -> list[float]:
        """The t to try, from the largest magnitude (nothing is scaled) down."""
        width = max(largest - _LEAST_THRESHOLD, 0.0) / self.steps
        return [largest - step * width for step in range(self.steps + 1)] if width else [largest]

    def _scale(self, problem: SiteProblem, magnitude: Tensor, threshold: float) -> Tensor:
        scale = (magnitude / max(threshold, torch.finfo(torch.float32).tiny)).clamp(min=1)
        return scale if problem.tie is None else problem.tie(scale)
