"""Weighted k-means of numbers on a line, for many rows at once."""

import torch
from torch import Tensor
from torch.nn.functional import pad

_BINS_PER_CENTER = 6
_REACH = 24  # bins that one cluster may span: four times its even share
_CHUNK_ELEMENTS = 2**19


def weighted_kmeans(values: Tensor, weights: Tensor, count: int, *, iterations: int) -> Tensor:
    """Centers [rows, count], ascending, with least sum_i weights_i (values_i - nearest center)^2 in each row.

    values, weights: [rows, n]; a row whose weights are all zero is clustered with equal weights. Clusters of numbers
    are intervals, so an exact dynamic programme over a few bins a center finds where they lie, and Lloyd's iterations
    over the values themselves do the rest. Where there are fewer values than centers, the last center is repeated.
    """
    bins = min(values.shape[1], _BINS_PER_CENTER * count)
    size = max(1, _CHUNK_ELEMENTS // (bins * _REACH))
    pieces = zip(values.split(size), weights.split(size), strict=True)
    return torch.cat([_kmeans(v, w, count, bins, iterations) for v, w in pieces])


def _kmeans(values: Tensor, weights: Tensor, count: int, bins: int, iterations: int) -> Tensor:
    values, order = values.sort(1)
    weights = weights.gather(1, order)
    total = weights.sum(1, keepdim=True)
    weights = torch.where(total > 0, weights / total, 1 / weights.shape[1])
    # sums of w, w x and w x^2 over an interval of sorted values are differences of these [3, rows, n + 1]
    sums = pad(torch.stack([weights, weights * values, weights * values.square()]).double().cumsum(2), (1, 0))
    edges = _bin_edges(values, weights, bins)
    cuts = edges.gather(1, _best_cuts(_at(sums, edges), min(count, bins)))
    centers = _lloyd(values, sums, cuts, iterations)
    return torch.cat([centers, centers[:, -1:].expand(-1, count - centers.shape[1])], 1)


def _bin_edges(values: Tensor, weights: Tensor, bins: int) -> Tensor:
    """Cut n sorted values into bins of equal share of (weight x density)^(1/3), the density of a good quantizer's
    centers (Panter and Dite, 1951): indices [rows, bins + 1] from 0 to n."""
    rows, n = values.shape
    gaps = pad(values.diff(dim=1)[:, None], (1, 1), mode="replicate")[:, 0] if n > 1 else torch.ones_like(values)
    width = (gaps[:, 1:] + gaps[:, :-1]) / 2 if n > 1 else gaps
    share = weights.pow(1 / 3) * width.pow(2 / 3)  # (w / width)^(1/3), times width
    share = share + share.mean(1, keepdim=True) * 1e-6 + torch.finfo(share.dtype).tiny  # never all zero
    cumulative = share.double().cumsum(1)
    targets = cumulative[:, -1:] * (torch.arange(1, bins, device=values.device) / bins)
    inner = torch.searchsorted(cumulative, targets) if bins < n else torch.arange(1, n, device=values.device)
    return pad(pad(inner.expand(rows, bins - 1), (1, 0)), (0, 1), value=n)


def _best_cuts(sums: Tensor, count: int) -> Tensor:
    """The partition of bins into ``count`` intervals of least squared error, by dynamic programming.

    sums [3, rows, bins + 1]: of w, w x and w x^2 up to each edge -> edge numbers [rows, count + 1].
    """
    rows, bins = sums.shape[1], sums.shape[2] - 1
    reach = min(_REACH, bins)

    def before(ends: Tensor, fill: float) -> Tensor:
        """For each edge j = 1 ... bins, what belongs to the edges j - reach ... j - 1 [..., bins, reach]."""
        return pad(ends[..., :-1], (reach - 1, 0), value=fill).unfold(-1, reach, 1)

    mass, first, second = (sums[:, :, 1:, None] - before(sums, 0)).unbind()
    spread = torch.where(mass > 0, first.square() / mass.clamp(min=torch.finfo(mass.dtype).tiny), 0)
    cost = (second - spread).clamp(min=0).float()
    least = torch.full((rows, bins + 1), torch.inf, device=sums.device)
    least[:, 0] = 0
    choices = []
    for _ in range(count):
        best, choice = (before(least, torch.inf) + cost).min(2)
        least = pad(best, (1, 0), value=torch.inf)
        choices.append(choice)
    cuts = [torch.full((rows, 1), bins, device=sums.device)]
    for choice in reversed(choices):
        cuts.append(cuts[-1] - reach + choice.gather(1, cuts[-1] - 1))
    return torch.cat(cuts[::-1], 1)


def _lloyd(values: Tensor, sums: Tensor, cuts: Tensor, iterations: int) -> Tensor:
    """Centers [rows, k] after Lloyd's iterations, at most so many, from clusters between ``cuts`` [rows, k + 1]."""
    n = values.shape[1]
    for _ in range(iterations):
        centers = _means(values, sums, cuts)
        middle = (centers[:, 1:] + centers[:, :-1]) / 2
        moved = pad(pad(torch.searchsorted(values, middle), (1, 0)), (0, 1), value=n)
        if torch.equal(moved, cuts):
            break
        cuts = moved
    return _means(values, sums, cuts)


def _means(values: Tensor, sums: Tensor, cuts: Tensor) -> Tensor:
    """Weighted mean of each cluster, ascending; a cluster without weight stays at its first value."""
    mass, first, _ = _at(sums, cuts).diff(dim=2).unbind()
    start = values.gather(1, cuts[:, :-1].clamp(max=values.shape[1] - 1))
    means = torch.where(mass > 0, first / mass.clamp(min=torch.finfo(mass.dtype).tiny), start)
    return means.to(values.dtype).sort(1).values


def _at(sums: Tensor, index: Tensor) -> Tensor:
    """``sums`` [3, rows, n + 1] at the positions ``index`` [rows, k] of each row."""
    return sums.gather(2, index.expand(3, -1, -1))
