"""AWQ's activation-aware scaling."""

import math
from dataclasses import dataclass

from torch import Tensor

from quantbench.formats import IntFormat
from quantbench.kernels.awq import scaled_nearest
from quantbench.methods.transform.base import SiteProblem, SiteScaling

_SMALLEST = 1e-4  # the reference's clamp of mean|x|^r
OBJECTIVES = ("module", "linear")


@dataclass
class AWQ(SiteScaling):
    """Per-channel scaling s = mean|x|^r, r from a grid (Lin et al., arXiv 2306.00978, eq. 4-5; the authors' code).

    n_grid: r = 0, 1/n, ..., (n-1)/n. s is divided by sqrt(max s * min s). objective: ``module`` scores the output of
    the attention or MLP that the linears feed (the authors' choice), ``linear`` the linears' own output, exactly, from
    the covariance: tr(dW H dW^T). Where the linear is the module (o_proj, down_proj) the two coincide.
    search_batches: how many calibration batches ``module`` replays for each r (null: all of them). tie_heads: under
    grouped-query attention scale the attention output too, with one s for the heads that share values; the authors skip
    it.
    """

    n_grid: int = 20
    objective: str = "module"
    search_batches: int | None = None
    tie_heads: bool = False

    def __post_init__(self) -> None:
        if self.n_grid < 1:
            raise ValueError(f"transform.n_grid={self.n_grid}: allowed is a positive integer")
        if self.objective not in OBJECTIVES:
            raise ValueError(f"transform.objective={self.objective}: allowed are {', '.join(OBJECTIVES)}")
        if self.search_batches is not None and self.search_batches < 1:
            raise ValueError(f"transform.search_batches={self.search_batches}: allowed is a positive integer or null")

    @property
    def replayed_batches(self) -> int | None:
        return self.search_batches if self.objective == "module" else 0

    def candidates(self, problem: SiteProblem) -> list[Tensor]:
        """The scales [in] of the grid, in order of r."""
        scales = []
        for step in range(self.n_grid):
            scale = problem.stats.mean_abs.pow(step / self.n_grid).clamp(min=_SMALLEST)
            if problem.tie is not None:
                scale = problem.tie(scale)
            scales.append(scale / (scale.max() * scale.min()).sqrt())
        return scales

    def site_scale(self, problem: SiteProblem) -> Tensor | None:
        if not problem.stats.count or (problem.tie is not None and not self.tie_heads):
            return None
        candidates = self.candidates(problem)
        best, least = None, math.inf
        # From the middle of the grid outwards, where the best r mostly is: the others are then soon seen to be worse.
        for step in sorted(range(self.n_grid), key=lambda step: abs(2 * step - self.n_grid)):
            error = self.error(problem, candidates[step], limit=least)
            if error < least or (error == least < math.inf and best is not None and step < best):
                best, least = step, error
        return None if best is None else candidates[best]

    def error(self, problem: SiteProblem, scale: Tensor, *, limit: float = math.inf) -> float:
        """The objective at one scale [in]: what rounding W s and dividing by s does to the output.

        limit: above it, it need not be exact.
        """
        format = problem.grid.format  # on min-max groups, whatever the range that follows
        if isinstance(format, IntFormat) and not format.per_tensor:
            rounded = [scaled_nearest(w, scale, format) for w in problem.weights]
        else:
            rounded = [problem.grid.nearest(w * scale, None).dequantize() / scale for w in problem.weights]
        if self.objective == "module" and problem.module_error is not None:
            return problem.module_error(rounded, limit)
        return problem.linear_error(rounded)
