"""Weighted k-means of numbers on a line, for many rows at once."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from quantbench.kernels.kmeans import lloyd

_BINS_PER_CENTER = 6
_REACH = 24  # bins that one cluster may span: four times its even share
_BAND = 96  # bins that a border may lie from its even share, before more are tried
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
    at_edges = sums.gather(2, edges.expand(3, -1, -1))
    cuts = edges.gather(1, _best_cuts(_costs(at_edges), min(count, bins)))
    centers = lloyd(values, sums[:2], cuts, iterations=iterations)
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


def _costs(sums: Tensor) -> Tensor:
    """Squared error of one cluster from edge j - reach + r to edge j, [reach, rows, bins] for j = 1 ... bins.

    sums [3, rows, bins + 1]: of w, w x and w x^2 up to each edge. Edges before the first count as the first.
    """
    reach = min(_REACH, sums.shape[2] - 1)
    mass, first, second = (sums[:, :, 1:] - _before(pad(sums[..., :-1], (reach - 1, 0)), reach)).unbind(1)
    spread = torch.where(mass > 0, first.square() / mass.clamp(min=torch.finfo(mass.dtype).tiny), 0)
    return (second - spread).clamp(min=0).float()


def _before(ends: Tensor, reach: int) -> Tensor:
    """Windows along the last dimension, [reach, ..., windows]."""
    return ends.unfold(-1, reach, 1).movedim(-1, 0)


def _best_cuts(costs: Tensor, count: int) -> Tensor:
    """The partition of bins into ``count`` intervals of least cost: edge numbers [rows, count + 1].

    Borders are looked for near their even share; rows whose best ones come to the end of what was looked at get twice
    as much.
    """
    reach, rows, bins = costs.shape
    even = torch.arange(count + 1, device=costs.device) * bins // count
    cuts = even.repeat(rows, 1)
    band, open_rows = min(_BAND, bins), torch.arange(rows, device=costs.device)
    while len(open_rows):
        cuts[open_rows] = _cuts_in_band(costs[:, open_rows], count, band)
        near_end = (cuts[open_rows] - even).abs().amax(1) > band - reach
        open_rows = open_rows[near_end & (band < bins)]
        band = min(2 * band, bins)
    return cuts


def _cuts_in_band(costs: Tensor, count: int, band: int) -> Tensor:
    """The same with every border at most ``band`` bins from its even share, by dynamic programming."""
    reach, rows, bins = costs.shape
    even = [border * bins // count for border in range(count + 1)]
    costs = pad(costs, (band, band), value=torch.inf)  # so the one to edge j is at j - 1 + band
    least = pad(torch.zeros(rows, 1, device=costs.device), (band, band), value=torch.inf)
    ways = torch.empty(reach, rows, 2 * band + 1, device=costs.device)
    starts = []  # least costs up to the edges that an interval may start from, [rows, 2 band + reach]
    for border in range(1, count + 1):
        step = even[border] - even[border - 1]
        starts.append(pad(least, (reach - step, step - 1), value=torch.inf))
        torch.add(_before(starts[-1], reach), costs[:, :, even[border] - 1 : even[border] + 2 * band], out=ways)
        least = ways.amin(0)
    cuts = [torch.full((rows, 1), bins, device=costs.device)]
    for border in range(count, 0, -1):
        end = cuts[-1]
        window = end - even[border] + band + torch.arange(reach, device=costs.device)
        last = costs.gather(2, (end - 1 + band).expand(reach, rows, 1))[..., 0].T
        cuts.append(end - reach + (starts[border - 1].gather(1, window) + last).argmin(1, keepdim=True))
    return torch.cat(cuts[::-1], 1)
