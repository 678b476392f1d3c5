"""Search for the shrunken interval with the least l_p error of the weights."""

from dataclasses import dataclass

import torch
from torch import Tensor

from quantbench.formats import Format, GroupParams
from quantbench.methods.curvature import Curvature
from quantbench.methods.histogram import Histogram
from quantbench.methods.range.base import CountedRange, counted_range, weight_range
from quantbench.methods.range.search import better_of, fit_in_chunks


@dataclass
class MSE(CountedRange):
    """The factor c that minimises sum |w - q(w)|^norm over the grid when both ends of the min-max interval move to c.

    c runs over 1, 1 - 1/grid, ... down to (but not including) 1 - max_shrink. The defaults are those of the GPTQ
    authors' quantizer with ``mse=True`` (norm 2.4, 100 steps, down to a fifth); norm 2 is the mean squared error.
    max_growth: c also runs from 1 + 1/grid up to 1 + max_growth, for formats whose scales do not reach every weight
    (MXFP4 rounds them down to a power of two) or must be rounded.
    """

    norm: float = 2.4
    grid: int = 100
    max_shrink: float = 0.8
    max_growth: float = 0.0

    def __post_init__(self) -> None:
        if not self.norm > 0:
            raise ValueError(f"range.norm={self.norm}: allowed are positive numbers")
        if self.grid < 1:
            raise ValueError(f"range.grid={self.grid}: allowed is a positive integer")
        if not 0 < self.max_shrink <= 1:
            raise ValueError(f"range.max_shrink={self.max_shrink}: allowed are values above 0 and up to 1")
        if not self.max_growth >= 0:
            raise ValueError(f"range.max_growth={self.max_growth}: allowed are 0 and positive numbers")

    def fit(self, weight: Tensor, format: Format, curvature: Curvature | None) -> GroupParams:
        return fit_in_chunks(weight, lambda rows: self._search(weight[rows], *weight_range(weight[rows]), format))

    def fit_counts(self, seen: Histogram, format: Format) -> GroupParams:
        counts, centres = seen.bins()
        return self._search(centres[None], *counted_range(seen), format, counts[None])

    def _search(
        self, weight: Tensor, low: Tensor, high: Tensor, format: Format, counts: Tensor | None = None
    ) -> GroupParams:
        best = format.params(low, high)
        least = self._error(weight, format, best, counts)
        steps = (*range(1, int(self.max_shrink * self.grid)), *range(-1, -int(self.max_growth * self.grid) - 1, -1))
        for step in steps:
            factor = 1 - step / self.grid
            params = format.params(low * factor, high * factor)
            error = self._error(weight, format, params, counts)
            better = error < least
            least = torch.where(better, error, least)
            best = better_of(better, params, best)
        return best

    def _error(self, weight: Tensor, format: Format, params: GroupParams, counts: Tensor | None) -> Tensor:
        """Sum of |w - q(w)|^norm of each row, [rows, 1]; counts: how often each value occurs, None for once."""
        delta = format.decode(format.encode(weight, params), params).sub_(weight)
        powers = delta.square_() if self.norm == 2 else delta.abs_().pow_(self.norm)
        return (powers if counts is None else powers * counts).sum(1, keepdim=True)
