"""SmoothQuant's scaling: activation outliers move into the weights."""

from dataclasses import dataclass

import torch
from torch import Tensor

from quantbench.methods.transform.base import SiteProblem, SiteScaling

SITES = ("norm_fed", "all")


@dataclass
class SmoothQuant(SiteScaling):
    """Per-channel scaling s_j = max|x_j|^alpha / max|w_j|^(1 - alpha) (Xiao et al., arXiv 2211.10438, eq. 4).

    max|w_j| is over all linears that read the site. alpha: how much of the activations' range moves into the weights;
    null searches each site's own among 0, 1/n_grid, ..., 1: the one of least squared error of the linears' outputs when
    inputs and weights are rounded. sites: ``norm_fed`` scales what a norm produces (the authors' code); ``all`` also
    what a linear produces, where it can absorb the scale, with one s for the heads that share values. A channel without
    activations or weights keeps 1.
    """

    alpha: float | None = 0.5
    sites: str = "norm_fed"
    n_grid: int = 20

    def __post_init__(self) -> None:
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise ValueError(f"transform.alpha={self.alpha}: allowed are 0 to 1, or null for a search")
        if self.sites not in SITES:
            raise ValueError(f"transform.sites={self.sites}: allowed are {', '.join(SITES)}")
        if self.n_grid < 1:
            raise ValueError(f"transform.n_grid={self.n_grid}: allowed is a positive integer")

    @property
    def needs_inputs(self) -> bool:
        return self.alpha is None

    def site_scale(self, problem: SiteProblem) -> Tensor | None:
        if not problem.stats.count or (self.sites == "norm_fed" and not problem.norm_fed):
            return None
        if self.alpha is not None:
            return self.scale(problem, self.alpha)
        return problem.best_at_run_time([self.scale(problem, step / self.n_grid) for step in range(self.n_grid + 1)])

    def scale(self, problem: SiteProblem, alpha: float) -> Tensor:
        """Equation 4 for one alpha, [in]."""
        inputs = problem.stats.absmax
        weights = torch.stack([w.abs().amax(0) for w in problem.weights]).amax(0)
        scale = torch.where((inputs > 0) & (weights > 0), inputs**alpha / weights ** (1 - alpha), 1.0)
        return scale if problem.tie is None else problem.tie(scale)
