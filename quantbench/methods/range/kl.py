"""Entropy calibration: the interval whose quantized histogram diverges least from the weights' own."""

from dataclasses import dataclass

import torch
from torch import Tensor

from quantbench.formats import Format, GroupParams
from quantbench.methods.curvature import Curvature
from quantbench.methods.histogram import Histogram
from quantbench.methods.range.base import CountedRange, counted_range, weight_range
from quantbench.methods.range.search import better_of, fit_in_chunks


@dataclass
class KL(CountedRange):
    """Entropy calibration (Migacz, 8-bit Inference with TensorRT, GTC 2017), for each group of weights.

    The weights are counted in equal bins over their min-max interval (made symmetric where the format covers both ends
    alike). A candidate shrinks both ends by a factor c, from 1 in steps of 1 / grid down to (but not including)
    1 - max_shrink. Its reference P is the histogram with the bins whose centre lies outside added to the outermost bins
    inside; its quantized Q takes the counts inside alone, summed over the bins that share a code and spread evenly over
    those of them that P fills. The least KL(P || Q) wins; a candidate that leaves P mass where Q has none is out.

    The original walks along the bins of |x| of a whole tensor at 8 bit, from all 2048 down to 128 of them (a sixteenth,
    hence ``max_shrink``); here bins are signed and cells are the format's own, so every format can be calibrated.

    A group of n weights has at most n bins. With few bins a code, fewer still once the interval shrinks, Q follows P
    whatever is cut off and the search clips too much: it is made for whole tensors (``format.per_tensor=true``). Groups
    work too, but badly and slowly.
    """

    bins: int = 2048
    grid: int = 128
    max_shrink: float = 0.9375

    def __post_init__(self) -> None:
        if self.bins < 2:
            raise ValueError(f"range.bins={self.bins}: allowed is an integer above 1")
        if self.grid < 1:
            raise ValueError(f"range.grid={self.grid}: allowed is a positive integer")
        if not 0 < self.max_shrink < 1:
            raise ValueError(f"range.max_shrink={self.max_shrink}: allowed are values between 0 and 1")

    def fit(self, weight: Tensor, format: Format, curvature: Curvature | None) -> GroupParams:
        return fit_in_chunks(weight, lambda rows: self._fit(weight[rows], format))

    def fit_counts(self, seen: Histogram, format: Format) -> GroupParams:
        counts, centres = seen.bins(self.bins)
        return self._search(counts[None], centres[None], *_covered(*counted_range(seen), format), format)

    def _fit(self, weight: Tensor, format: Format) -> GroupParams:
        low, high = _covered(*weight_range(weight), format)
        counts, centres = _histogram(weight, low, high, min(self.bins, weight.shape[1]))
        return self._search(counts, centres, low, high, format)

    def _search(self, counts: Tensor, centres: Tensor, low: Tensor, high: Tensor, format: Format) -> GroupParams:
        best = format.params(low, high)
        least = _divergence(counts, centres, low, high, format, best)
        for step in range(1, int(self.max_shrink * self.grid)):
            factor = 1 - step / self.grid
            params = format.params(low * factor, high * factor)
            divergence = _divergence(counts, centres, low * factor, high * factor, format, params)
            better = divergence < least
            least = torch.where(better, divergence, least)
            best = better_of(better, params, best)
        return best


def _covered(low: Tensor, high: Tensor, format: Format) -> tuple[Tensor, Tensor]:
    """[low, high] of each row, or [-max, max] where the format's grid is the same for both."""
    bound = torch.maximum(-low, high)
    given, symmetric = format.params(low, high), format.params(-bound, bound)
    alike = (given.scale == symmetric.scale) & (given.zero_point == symmetric.zero_point)
    return torch.where(alike, -bound, low), torch.where(alike, bound, high)


def _histogram(weight: Tensor, low: Tensor, high: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """Counts (fp64) and centres of equal bins over [low, high] of each row, [rows, bins] each."""
    width = ((high - low) / bins).clamp_(min=torch.finfo(torch.float32).tiny)
    index = ((weight - low) / width).long().clamp_(0, bins - 1)
    counts = torch.zeros(len(weight), bins, dtype=torch.float64, device=weight.device)
    counts.scatter_add_(1, index, torch.ones_like(counts[:1, :1]).expand_as(index))
    return counts, low + (torch.arange(bins, device=weight.device) + 0.5) * width


def _divergence(
    counts: Tensor, centres: Tensor, low: Tensor, high: Tensor, format: Format, params: GroupParams
) -> Tensor:
    """KL(P || Q) of the candidate interval [low, high] for each row, [rows, 1]; infinite where Q lacks P's support."""
    rows, bins = counts.shape
    inside = (centres >= low) & (centres <= high)
    counted = counts * inside
    first, last = (
        inside.to(torch.uint8).argmax(1, keepdim=True),
        bins - 1 - inside.flip(1).to(torch.uint8).argmax(1, keepdim=True),
    )
    reference = counted.clone()
    reference.scatter_add_(1, first, (counts * (centres < low)).sum(1, keepdim=True))
    reference.scatter_add_(1, last, (counts * (centres > high)).sum(1, keepdim=True))
    # cells: runs of bins that get one value; those outside belong to the cell of the outermost bin inside
    value = format.decode(format.encode(torch.minimum(torch.maximum(centres, low), high), params), params)
    begins = torch.ones_like(inside)
    begins[:, 1:] = value[:, 1:] != value[:, :-1]
    starts = begins.flatten().nonzero()[:, 0]
    cell_reference, cell_counted, cell_filled = (_run_sums(t, starts) for t in (reference, counted, reference > 0))
    # sum over bins of P log Q: Q is constant over the filled bins of a cell
    spread = torch.special.xlogy(cell_reference, cell_counted / cell_filled.clamp_(min=1))
    cross = counts.new_zeros(rows).index_add_(0, starts // bins, spread)[:, None]
    total, kept = reference.sum(1, keepdim=True), counted.sum(1, keepdim=True)
    own = torch.special.xlogy(reference, reference).sum(1, keepdim=True)
    return torch.where(kept > 0, (own - cross) / total - (total / kept).log(), torch.inf)


def _run_sums(values: Tensor, starts: Tensor) -> Tensor:
    """Sums over the runs of flattened ``values`` that begin at ``starts`` (ascending, the first is 0), fp64."""
    before = torch.nn.functional.pad(values.flatten().cumsum(0, dtype=torch.float64), (1, 0))
    return before[torch.nn.functional.pad(starts, (0, 1), value=values.numel())].diff()
