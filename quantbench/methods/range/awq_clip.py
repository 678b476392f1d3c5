"""AWQ's clip search: shrink the range of each group as long as the layer's output error falls."""

from dataclasses import dataclass, field
from fnmatch import fnmatch

import torch
from torch import Tensor

from quantbench.formats import Format, GroupParams
from quantbench.methods.curvature import Curvature
from quantbench.methods.range.base import Range, weight_range
from quantbench.methods.range.minmax import MinMax
from quantbench.methods.range.search import better_of


@dataclass
class AWQClip(Range):
    """Grid search of a symmetric clipping bound per row and group (AWQ, arXiv 2306.00978; its reference code).

    The bound is max|w| times 1, 1 - 1/grid, ... down to (but not including) 1 - max_shrink. The reference scores
    ``mean_t (x_t . (w - q(w)))^2`` over 512 sampled tokens; that mean is the quadratic form dw H dw^T with H the
    group's block of mean x x^T, which we evaluate exactly over all calibration tokens. Query and key projections are
    left unclipped (``skip``): their error passes through a softmax and the linear's own output error misleads.
    """

    grid: int = 20
    max_shrink: float = 0.5
    skip: list[str] = field(default_factory=lambda: ["q_*", "k_*", "query*", "key*", "*qkv*", "c_attn"])

    def __post_init__(self) -> None:
        if self.grid < 1:
            raise ValueError(f"range.grid={self.grid}: allowed is a positive integer")
        if not 0 < self.max_shrink <= 1:
            raise ValueError(f"range.max_shrink={self.max_shrink}: allowed are values above 0 and up to 1")

    @property
    def needs_calibration(self) -> bool:
        return True

    def for_linear(self, name: str) -> Range:
        last = name.rsplit(".", 1)[-1]
        return MinMax() if any(fnmatch(last, pattern) for pattern in self.skip) else self

    def fit(self, weight: Tensor, format: Format, curvature: Curvature | None) -> GroupParams:
        metric = torch.eye(weight.shape[1], device=weight.device) if curvature is None else curvature.hessian
        bound = weight.abs().amax(1, keepdim=True)
        best = format.params(*weight_range(weight))
        least = torch.full_like(bound, torch.inf)
        for step in range(int(self.max_shrink * self.grid)):
            limit = bound * (1 - step / self.grid)
            clipped = weight.clamp(-limit, limit)
            params = format.params(*weight_range(clipped))
            delta = format.decode(format.encode(clipped, params), params) - weight
            error = ((delta @ metric) * delta).sum(1, keepdim=True)
            better = error < least
            least = torch.where(better, error, least)
            best = better_of(better, params, best)
        return best
