"""The mean of a short series of windows whose neighbours may be alike: its error and how that is distributed."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quantbench.statistics.intervals import CONFIDENCE

RESAMPLES = 2000

_Values = NDArray[np.float64]
_MOST_CORRELATION = 0.8
_CAUTION = 2
_FEWEST_EFFECTIVE = 2.5  # samples: below, no degrees of freedom are left
_BURN_IN = 10  # steps after which 0.8^10 of the start is left


class MeanError(NamedTuple):
    """Of each series: its mean, the mean's standard error, lag-1 correlation, and how many independent samples it is
    worth."""

    mean: _Values
    stderr: _Values
    correlation: _Values
    effective: _Values


def mean_error(series: _Values, *, serial: bool = True) -> MeanError:
    """Means of ``series`` [..., n] in the order of the text; ``serial=False`` takes the samples for independent.

    A first-order autoregression x_t - mu = r (x_{t-1} - mu) + e_t makes n samples worth n (1 - r) / (1 + r). In short
    series the estimate of r is too low by (1 + 3 r) / n (Kendall, Biometrika 1954). That is put back, and 2 / n more:
    to miss a correlation costs coverage (at ten windows 3 %), to suppose one only width. Negative correlation, which
    would narrow the interval, is not believed.
    """
    count = series.shape[-1]
    mean = series.mean(axis=-1)
    centred = series - mean[..., None]
    squares = (centred**2).sum(axis=-1)
    correlation = np.zeros_like(mean)
    if serial:
        lagged = (centred[..., 1:] * centred[..., :-1]).sum(axis=-1)
        raw = np.divide(lagged, squares, out=np.zeros_like(mean), where=squares > 0)
        correlation = np.clip(raw + (1 + 3 * raw + _CAUTION) / count, 0, _MOST_CORRELATION)
    # A sum of squares around the mean of correlated samples misses the variance of that mean: n - inflation.
    inflation = np.minimum((1 + correlation) / (1 - correlation), max(1.0, count / _FEWEST_EFFECTIVE))
    variance = squares / (count - inflation)
    return MeanError(mean, np.sqrt(variance * inflation / count), correlation, count / inflation)


def t_statistic_quantiles(series: _Values, *, serial: bool, seed: int) -> tuple[float, float]:
    """Lower and upper 2.5 % quantile of (mean - true mean) / standard error for a series [n] like this one.

    A studentised bootstrap: resampled residuals of the autoregression (an AR(1) sieve, Buehlmann, Bernoulli 1997; for
    independent samples the samples themselves) make new series of mean zero, each with its own standard error. That
    accounts for skewed differences, unlike Student's t, and for neighbours that resemble each other; of 10 to 40
    windows there are too few blocks to resample those (coverage: docs/statistics.md).
    """
    generator = np.random.default_rng(seed)
    count, correlation = len(series), float(mean_error(series, serial=serial).correlation)
    centred = series - series.mean()
    if correlation > 0:
        residuals = centred[1:] - correlation * centred[:-1]
        drawn = generator.choice(residuals - residuals.mean(), (RESAMPLES, _BURN_IN + count))
        resampled = _autoregression(drawn, correlation)[:, _BURN_IN:]
    else:
        resampled = generator.choice(centred, (RESAMPLES, count))
    result = mean_error(resampled, serial=serial)
    kept = result.stderr > 0  # a resample of one repeated value has no statistic
    statistics = result.mean[kept] / result.stderr[kept]
    low, high = np.quantile(statistics, [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2])
    return float(low), float(high)


def _autoregression(innovations: _Values, correlation: float) -> _Values:
    from scipy.signal import lfilter

    started = innovations.copy()
    started[:, 0] /= np.sqrt(1 - correlation**2)
    return np.asarray(lfilter([1.0], [1.0, -correlation], started, axis=1))
