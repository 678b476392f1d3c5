"""What is kept of the values of a matrix that is seen in pieces: moments, largest values, a histogram."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quantbench.formats import group_slices
from quantbench.store.inspection import HISTOGRAM_BINS, OUTLIER_RATIOS, Shape

_MOST_ELEMENTS = 2**22  # converted to float64 at a time
_MOST_OUTLIERS = 32  # channels that are named
_TINY = torch.finfo(torch.float32).tiny


@dataclass
class Distribution:
    """Values of a matrix [rows, channels]: a weight (its rows are outputs) or a site's inputs (its rows are tokens).

    group_size: channels that the histogram scales together (None: the whole row). Rows with NaN or Inf are left out.
    """

    channels: int
    group_size: int | None = None

    def __post_init__(self) -> None:
        self._powers = torch.zeros(4, dtype=torch.float64)
        self._histogram = torch.zeros(HISTOGRAM_BINS, dtype=torch.float64)
        self._channel_absmax = torch.zeros(self.channels)
        self._row_absmax: list[Tensor] = []

    @classmethod
    def of(cls, matrix: Tensor, group_size: int | None) -> "Distribution":
        """Of a matrix [rows, channels] that is there as a whole."""
        found = cls(matrix.shape[1], group_size)
        found.add(matrix)
        return found

    def add(self, values: Tensor) -> None:
        """Further rows [..., channels]."""
        rows = values.detach().reshape(-1, self.channels)
        for piece in rows.split(max(1, _MOST_ELEMENTS // self.channels)):
            piece = piece.float()
            piece = piece[torch.isfinite(piece).all(1)]
            if len(piece):
                self._add(piece)

    def _add(self, rows: Tensor) -> None:
        magnitude, exact = rows.abs(), rows.double()
        self._channel_absmax = torch.maximum(self._channel_absmax, magnitude.amax(0).cpu())
        self._row_absmax.append(magnitude.amax(1).cpu())
        squares = exact.square()
        powers = exact.sum(), squares.sum(), (squares * exact).sum(), squares.square().sum()
        self._powers += torch.stack(powers).cpu()
        self._histogram += self._scaled_counts(rows).cpu()

    def _scaled_counts(self, rows: Tensor) -> Tensor:
        """How many values fall into each bin of [-1, 1] once the largest magnitude of each group is 1."""
        counts = torch.zeros(HISTOGRAM_BINS, dtype=torch.float64)
        for group in group_slices(self.channels, self.group_size):
            part = rows[:, group]
            scaled = part / part.abs().amax(1, keepdim=True).clamp(min=_TINY)
            counts += torch.histc(scaled, HISTOGRAM_BINS, -1, 1).double().cpu()
        return counts

    @property
    def rows(self) -> int:
        """Rows seen."""
        return sum(map(len, self._row_absmax))

    def shape(self) -> Shape:
        """In the numbers that are recorded."""
        count = self.rows * self.channels
        if not count:
            return Shape(rows=0, channels=self.channels)
        mean, *_ = raw = (self._powers / count).tolist()
        channel_ratios = _over_median(self._channel_absmax)
        outliers = _outliers(channel_ratios)
        return Shape(
            rows=self.rows,
            channels=self.channels,
            absmax=float(self._channel_absmax.max()),
            rms=raw[1] ** 0.5,
            mean=mean,
            kurtosis=_kurtosis(raw),
            row_ratio=_largest(_over_median(torch.cat(self._row_absmax))),
            channel_ratio=_largest(channel_ratios),
            channels_over_6=_count(channel_ratios, OUTLIER_RATIOS[0]),
            channels_over_20=_count(channel_ratios, OUTLIER_RATIOS[1]),
            outlier_channels=[channel for channel, _ in outliers],
            outlier_ratios=[ratio for _, ratio in outliers],
            histogram=(self._histogram / self._histogram.sum()).tolist(),
        )


def _kurtosis(raw: Sequence[float]) -> float | None:
    """Fourth central moment over the squared variance (Pearson's: 3 for a Gaussian), from E x, E x^2, E x^3, E x^4."""
    mean, square, cube, fourth = raw
    variance = square - mean**2
    if variance <= 1e-12 * square or not variance:
        return None  # all values are one
    return (fourth - 4 * mean * cube + 6 * mean**2 * square - 3 * mean**4) / variance**2


def _over_median(magnitudes: Tensor) -> Tensor | None:
    """Each over the median of all; None where that is zero."""
    median = magnitudes.quantile(0.5) if len(magnitudes) < 2**24 else magnitudes.median()
    return magnitudes / median if median else None


def _largest(ratios: Tensor | None) -> float | None:
    return None if ratios is None else float(ratios.max())


def _count(ratios: Tensor | None, limit: float) -> int | None:
    return None if ratios is None else int((ratios > limit).sum())


def _outliers(ratios: Tensor | None) -> list[tuple[int, float]]:
    """Channels over the lower limit and their ratios, the largest first."""
    if ratios is None:
        return []
    largest = ratios.sort(descending=True)
    found = zip(largest.indices.tolist(), largest.values.tolist(), strict=True)
    return [(channel, ratio) for channel, ratio in found if ratio > OUTLIER_RATIOS[0]][:_MOST_OUTLIERS]
