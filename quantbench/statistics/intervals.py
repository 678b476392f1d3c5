"""Confidence intervals of means over independent windows and items."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate with its standard error and 95 % confidence interval."""

    value: float
    stderr: float | None
    low: float | None
    high: float | None

    def map_exp(self) -> "Interval":
        """The same interval on the exp scale (NLL -> perplexity); the standard error by the delta method."""
        value = float(np.exp(self.value))
        if self.stderr is None or self.low is None or self.high is None:
            return Interval(value, None, None, None)
        return Interval(value, value * self.stderr, float(np.exp(self.low)), float(np.exp(self.high)))


def weighted_mean(values: NDArray[np.float64], weights: NDArray[np.float64]) -> Interval:
    """Mean of per-sample means ``values`` [n] weighted by ``weights`` [n] (targets per sample), with a t interval.

    The estimate is a ratio of sums, sum(w v) / sum(w); its variance is that of the linearised residuals w (v - mean)
    (Cochran, Sampling Techniques, eq. 6.10). Samples, not tokens, are the independent units: tokens within a window
    are correlated. With fewer than two samples there is no standard error.

    Raises:
        ValueError: no samples, or weights that do not sum to a positive number.
    """
    values, weights = np.asarray(values, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    total, count = weights.sum(), len(values)
    if count == 0 or not total > 0:
        raise ValueError("weighted_mean needs at least one sample with a positive weight")
    mean = float((weights * values).sum() / total)
    if count < 2:
        return Interval(mean, None, None, None)
    residuals = weights * (values - mean)
    stderr = float(np.sqrt((residuals**2).sum() * count / (count - 1)) / total)
    half = t_quantile(count - 1) * stderr
    return Interval(mean, stderr, mean - half, mean + half)


def t_quantile(degrees: float) -> float:
    """Student's t at the upper end of a two-sided 95 % interval."""
    from scipy.stats import t

    return float(t.ppf(0.5 + CONFIDENCE / 2, degrees))
