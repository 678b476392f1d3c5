"""Calibration seeds as a level of their own: would the difference hold with another draw of calibration data?"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from quantbench.statistics.intervals import t_quantile
from quantbench.statistics.series import mean_error


@dataclass(frozen=True)
class SeedStudy:
    """Mean difference over seeds and windows, with the share of its variance that each level brings.

    seed_sd: standard deviation between calibration seeds of the mean over infinitely many windows; window_sd: between
    windows, averaged over seeds. low, high: 95 % interval for new seeds and new windows of the same kind.
    """

    estimate: float
    stderr: float
    low: float
    high: float
    p_value: float
    seed_sd: float
    window_sd: float
    residual_sd: float
    seeds: int
    windows: int


def across_seeds(differences: ArrayLike, *, serial: bool = True) -> SeedStudy:
    """Crossed random effects d[s, w] = mu + seed_s + window_w + residual_sw of ``differences`` [seeds, windows].

    The variance of the mean is MS_seed + MS_window - MS_residual over S W (Searle, Casella and McCulloch, Variance
    Components, 1992, section 4.5), with Satterthwaite's degrees of freedom; MS_window counts the likeness of
    neighbouring windows (``series.mean_error``) unless ``serial=False``: items, not windows.

    Raises:
        ValueError: fewer than two seeds or two windows.
    """
    d = np.asarray(differences, np.float64)
    if d.ndim != 2 or min(d.shape) < 2:
        raise ValueError(f"variance over seeds needs two seeds and two windows at least, got {list(d.shape)}")
    seeds, windows = d.shape
    mean, by_seed = float(d.mean()), d.mean(axis=1)
    over_windows = mean_error(d.mean(axis=0), serial=serial)
    residual = d - by_seed[:, None] - d.mean(axis=0) + mean
    residual_variance = float((residual**2).sum()) / ((seeds - 1) * (windows - 1))
    # Each is the variance of the grand mean that one level alone would give it; the residual is in both.
    from_seeds, from_windows = float(by_seed.var(ddof=1)) / seeds, float(over_windows.stderr) ** 2
    shared = residual_variance / (seeds * windows)
    variance = max(from_seeds + from_windows - shared, from_seeds, from_windows)
    freedom = from_seeds**2 / (seeds - 1) + from_windows**2 / (float(over_windows.effective) - 1)
    degrees = variance**2 / freedom if freedom else 1.0
    stderr = variance**0.5
    half = t_quantile(degrees) * stderr
    return SeedStudy(
        estimate=mean,
        stderr=stderr,
        low=mean - half,
        high=mean + half,
        p_value=_p_value(mean, stderr, degrees),
        seed_sd=max(0.0, seeds * (from_seeds - shared)) ** 0.5,
        window_sd=max(0.0, float(d.mean(axis=0).var(ddof=1)) - residual_variance / seeds) ** 0.5,
        residual_sd=residual_variance**0.5,
        seeds=seeds,
        windows=windows,
    )


def _p_value(mean: float, stderr: float, degrees: float) -> float:
    from scipy.stats import t

    return float(2 * t.sf(abs(mean) / stderr, degrees)) if stderr else float(mean == 0)
