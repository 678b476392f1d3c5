"""The difference between two runs on the same windows or items."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quantbench.statistics.intervals import Interval, t_quantile
from quantbench.statistics.series import mean_error, t_statistic_quantiles

if TYPE_CHECKING:
    import pandas as pd

Frame: TypeAlias = "Mapping[str, Any] | pd.DataFrame"
_Values = NDArray[np.float64]
_FEWEST_TO_RESAMPLE = 8


@dataclass(frozen=True)
class PairedDifference:
    """Mean of ``a - b`` over common samples, its 95 % interval and two-sided p-value (of no difference).

    Interval and p-value are two views of one distribution: p < 0.05 exactly where the interval leaves out zero. They
    are None where they cannot be had: a single sample, or values that are not finite. ratio: exp of the difference,
    the ratio of perplexities where the samples are mean NLL. correlation: of a window's difference with the next one's.
    """

    estimate: float
    stderr: float | None
    low: float | None
    high: float | None
    p_value: float | None
    count: int
    correlation: float = 0.0

    @property
    def ratio(self) -> float:
        return float(np.exp(self.estimate))

    @property
    def ratio_low(self) -> float | None:
        return None if self.low is None else float(np.exp(self.low))

    @property
    def ratio_high(self) -> float | None:
        return None if self.high is None else float(np.exp(self.high))

    def interval(self) -> Interval:
        """The difference without its test."""
        return Interval(self.estimate, self.stderr, self.low, self.high)


def paired(a: Frame, b: Frame, *, serial: bool = True, seed: int = 0) -> PairedDifference:
    """The paired difference of two runs' samples: frames (or mappings) with columns key, value and weight.

    Samples are matched by key. ``serial``: they are windows or documents in the order of the text; False: items.

    Raises:
        ValueError: the runs do not have the same samples.
    """
    return paired_difference(*aligned(a, b), serial=serial, seed=seed)


def aligned(a: Frame, b: Frame) -> tuple[_Values, _Values, _Values]:
    """Values of ``a`` and of ``b`` and their common weights, in the order of ``a``.

    Raises:
        ValueError: keys or weights differ.
    """
    keys, place = list(a["key"]), {key: index for index, key in enumerate(b["key"])}
    if len(place) != len(keys) or not all(key in place for key in keys):
        raise ValueError(f"the runs do not have the same samples: {len(keys)} and {len(place)}, or other keys")
    order = np.array([place[key] for key in keys], dtype=np.int64)
    ours, theirs = ({name: np.asarray(side[name], np.float64) for name in ("value", "weight")} for side in (a, b))
    if not np.array_equal(ours["weight"], theirs["weight"][order]):
        raise ValueError("the runs weigh the same samples differently")
    return ours["value"], theirs["value"][order], ours["weight"]


def paired_difference(
    values: ArrayLike, others: ArrayLike, weights: ArrayLike, *, serial: bool = True, seed: int = 0
) -> PairedDifference:
    """The same from arrays [samples] in the order of the text; the samples' own difficulty cancels.

    Raises:
        ValueError: no samples, or weights that do not sum to a positive number.
    """
    weights = np.asarray(weights, np.float64)
    count = len(weights)
    if not weights.sum() > 0:
        raise ValueError("a paired difference needs at least one sample with a positive weight")
    with np.errstate(invalid="ignore"):
        differences = np.asarray(values, np.float64) - np.asarray(others, np.float64)
        estimate = float((weights * differences).sum() / weights.sum())
    if count < 2 or not np.isfinite(estimate):
        return PairedDifference(estimate, None, None, None, None, count)
    # A weighted mean is a ratio of sums; these are its linearised samples (Cochran, Sampling Techniques, eq. 6.10).
    linear = estimate + weights * (differences - estimate) / weights.mean()
    serial = serial and count >= _FEWEST_TO_RESAMPLE
    error = mean_error(linear, serial=serial)
    stderr, degrees = float(error.stderr), float(error.effective) - 1
    if stderr <= 1e-12 * abs(estimate):  # every sample differs by the same: nothing but rounding is left
        return PairedDifference(estimate, 0.0, estimate, estimate, float(estimate == 0), count)
    low, high = -t_quantile(degrees), t_quantile(degrees)
    if count >= _FEWEST_TO_RESAMPLE:
        low, high = t_statistic_quantiles(linear, serial=serial, seed=seed)
    return PairedDifference(
        estimate,
        stderr,
        estimate - high * stderr,
        estimate - low * stderr,
        _p_value(estimate / stderr, low, high, degrees),
        count,
        float(error.correlation),
    )


def _p_value(statistic: float, low: float, high: float, degrees: float) -> float:
    """Two-sided: Student's t, stretched on each side to the resampled 2.5 % quantile.

    So its resolution does not end at one in the number of resamples, which a correction for many comparisons needs.
    """
    from scipy.stats import t

    quantile = high if statistic > 0 else -low
    return float(min(1.0, 2 * t.sf(abs(statistic) * t_quantile(degrees) / quantile, degrees)))
