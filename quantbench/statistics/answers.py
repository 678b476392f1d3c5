"""Two runs' right and wrong answers to the same items: how many changed, and which way."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from quantbench.statistics.intervals import CONFIDENCE

RESAMPLES = 5000


@dataclass(frozen=True)
class AnswerChanges:
    """Changes of correctness from ``b`` to ``a``.

    Volume and direction are different findings: many answers can change without the accuracy moving. estimate: accuracy
    of a minus accuracy of b, with its 95 % interval; p_value: McNemar's exact test that changes go either way alike.
    """

    count: int
    better: int
    worse: int
    estimate: float
    low: float
    high: float
    p_value: float

    @property
    def changed(self) -> int:
        """Volume: answers whose correctness changed."""
        return self.better + self.worse


def answer_changes(correct: ArrayLike, others: ArrayLike, *, seed: int = 0) -> AnswerChanges:
    """Changes from ``others`` to ``correct``, 0 or 1 for each item [items].

    Raises:
        ValueError: no items, or values other than 0 and 1.
    """
    a, b = np.asarray(correct, np.float64), np.asarray(others, np.float64)
    if not len(a) or not np.isin([a, b], (0.0, 1.0)).all():
        raise ValueError("answers are 0 (wrong) or 1 (right), at least one")
    count, better, worse = len(a), int((a > b).sum()), int((a < b).sum())
    low, high = _interval(count, better, worse, seed)
    return AnswerChanges(count, better, worse, (better - worse) / count, low, high, mcnemar(better, worse))


def mcnemar(better: int, worse: int) -> float:
    """Exact two-sided McNemar test: of the answers that changed, a fair coin decides which way."""
    from scipy.stats import binomtest

    return float(binomtest(better, better + worse).pvalue) if better + worse else 1.0


def _interval(count: int, better: int, worse: int, seed: int) -> tuple[float, float]:
    """Percentile bootstrap over items.

    One item is added that changes for the better and one for the worse (Bonett and Price, Biometrical Journal 2012), so
    that few changes, or none, are not taken for certainty.
    """
    total = count + 2
    shares = np.array([better + 1, worse + 1, count - better - worse]) / total
    drawn = np.random.default_rng(seed).multinomial(total, shares, RESAMPLES)
    differences = (drawn[:, 0] - drawn[:, 1]) / total
    low, high = np.quantile(differences, [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2])
    return float(low), float(high)
