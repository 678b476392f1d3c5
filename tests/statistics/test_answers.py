import numpy as np
import pytest
from scipy import stats

from quantbench.bench.coverage import items
from quantbench.statistics import answer_changes
from quantbench.statistics.answers import mcnemar
from tests.statistics.simulation import TRIALS, about_95


def _answers(better: int, worse: int, count: int = 200):
    after = np.repeat([1.0, 0.0, 1.0], [better, worse, count - better - worse])
    before = np.repeat([0.0, 1.0, 1.0], [better, worse, count - better - worse])
    return after, before


def test_volume_and_direction_are_apart():
    still = answer_changes(*_answers(20, 20))
    assert (still.changed, still.better, still.worse, still.estimate, still.p_value) == (40, 20, 20, 0.0, 1.0)
    moved = answer_changes(*_answers(0, 20))
    assert (moved.changed, moved.better, moved.estimate) == (20, 0, -0.1)
    assert moved.high < 0


@pytest.mark.parametrize(("better", "worse"), [(0, 0), (1, 0), (3, 8), (12, 30)])
def test_mcnemar_is_the_binomial_tail_by_hand(better, worse):
    total, fewer = better + worse, min(better, worse)
    tail = 2 * sum(stats.binom.pmf(k, total, 0.5) for k in range(fewer + 1))
    assert mcnemar(better, worse) == pytest.approx(min(1.0, tail))


def test_the_interval_agrees_with_scipys_bootstrap_where_many_answers_changed():
    after, before = _answers(80, 50, 500)
    found = answer_changes(after, before)
    theirs = stats.bootstrap((after - before,), np.mean, method="percentile", n_resamples=4000, rng=0)
    low, high = theirs.confidence_interval
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.005)


def test_no_change_is_not_certainty():
    found = answer_changes(*_answers(0, 0))
    assert found.estimate == 0
    assert found.low < 0 < found.high


@pytest.mark.parametrize(("changed", "towards"), [(0.1, 0.6), (0.1, 0.5)])
def test_the_interval_holds_the_truth_about_95_times_in_100(changed, towards):
    assert about_95(items(500, changed, towards, TRIALS, np.random.default_rng(0)).coverage)


def test_anything_but_right_and_wrong_is_refused():
    with pytest.raises(ValueError, match="0 \\(wrong\\) or 1"):
        answer_changes([0.5], [1.0])
    with pytest.raises(ValueError, match="at least one"):
        answer_changes([], [])
