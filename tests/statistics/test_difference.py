import numpy as np
import pytest
from scipy import stats

from quantbench.bench.coverage import windows
from quantbench.statistics import CONFIDENCE, paired, paired_difference, weighted_mean
from quantbench.statistics.intervals import t_quantile
from tests.statistics.simulation import TRIALS, about_95


def _sides(count: int = 60, *, seed: int = 0, shift: float = 0.05):
    generator = np.random.default_rng(seed)
    difficulty = generator.normal(3, 0.4, count)
    return difficulty + shift + generator.normal(0, 0.05, count), difficulty


@pytest.mark.parametrize(
    ("name", "count", "correlation"),
    [
        ("normal", 12, 0.0),
        ("normal", 20, 0.2),
        ("normal", 40, 0.4),
        ("heavy-tailed (t5)", 40, 0.2),
        ("skewed (exponential)", 40, 0.0),
        ("skewed (exponential)", 40, 0.2),
    ],
)
def test_the_interval_holds_the_truth_about_95_times_in_100(name, count, correlation):
    found = windows(name, count, correlation, TRIALS, np.random.default_rng(0))
    assert about_95(found.coverage)
    assert found.width < 1.35


def test_taking_correlated_windows_for_independent_would_be_dishonest():
    series = np.random.default_rng(0).standard_normal((400, 60))
    for step in range(1, 60):
        series[:, step] += 0.4 * series[:, step - 1]
    found = [weighted_mean(row[20:], np.ones(40)) for row in series]
    assert np.mean([item.low <= 0 <= item.high for item in found]) < 0.88


def test_the_interval_of_independent_samples_agrees_with_scipys_bootstrap():
    a, b = _sides(200)
    found = paired_difference(a, b, np.ones(200), serial=False)
    theirs = stats.bootstrap((a - b,), np.mean, method="BCa", n_resamples=4000, rng=0).confidence_interval
    width = found.high - found.low
    assert found.low == pytest.approx(theirs.low, abs=0.05 * width)
    assert found.high == pytest.approx(theirs.high, abs=0.05 * width)


def test_the_p_value_agrees_with_scipys_paired_t_test_where_that_holds():
    a, b = _sides(200, shift=0.008)
    found = paired_difference(a, b, np.ones(200), serial=False)
    theirs = stats.ttest_rel(a, b)
    assert found.estimate / found.stderr == pytest.approx(theirs.statistic)
    assert found.p_value == pytest.approx(theirs.pvalue, rel=0.25)


@pytest.mark.parametrize("serial", [True, False])
def test_p_is_below_5_percent_exactly_where_the_interval_leaves_out_zero(serial):
    for seed in range(40):
        a, b = _sides(20, seed=seed, shift=0.02)
        found = paired_difference(a, b, np.ones(20), serial=serial)
        assert (found.p_value < 1 - CONFIDENCE) == (found.low > 0 or found.high < 0)


def test_swapping_the_runs_turns_the_difference_around():
    a, b = _sides(30)
    forth, back = paired_difference(a, b, np.ones(30)), paired_difference(b, a, np.ones(30))
    assert forth.estimate == -back.estimate
    assert (forth.low, forth.high) == pytest.approx((-back.high, -back.low), rel=0.02)
    assert forth.ratio == pytest.approx(1 / back.ratio)


def test_the_ratio_is_the_ratio_of_perplexities():
    weights = np.array([100.0, 50, 10, 200])
    a, b = np.array([2.0, 3, 2.5, 2.2]), np.array([1.9, 3.1, 2.0, 2.1])
    found = paired_difference(a, b, weights)
    perplexity_a, perplexity_b = (np.exp((weights * side).sum() / weights.sum()) for side in (a, b))
    assert found.ratio == pytest.approx(perplexity_a / perplexity_b)
    assert found.ratio_low < found.ratio < found.ratio_high


def test_too_few_windows_to_resample_give_students_interval():
    a, b = np.array([1.0, 2.0, 4.0]), np.array([0.5, 1.75, 3.0])
    found = paired_difference(a, b, np.ones(3))
    half = t_quantile(2) * np.std(a - b, ddof=1) / np.sqrt(3)
    assert (found.low, found.high) == pytest.approx((found.estimate - half, found.estimate + half))
    alone = paired_difference([1.0], [0.5], [1.0])
    assert (alone.estimate, alone.low, alone.p_value, alone.ratio_high) == (0.5, None, None, None)


def test_equal_runs_do_not_differ_and_a_broken_one_has_no_interval():
    same = paired_difference(np.ones(10), np.ones(10), np.ones(10))
    assert (same.estimate, same.low, same.high, same.p_value) == (0.0, 0.0, 0.0, 1.0)
    broken = paired_difference([np.inf, 1.0], [1.0, 1.0], [1.0, 1.0])
    assert (broken.estimate, broken.low, broken.p_value) == (np.inf, None, None)
    assert np.isnan(paired_difference([np.nan, 1.0], [1.0, 1.0], [1.0, 1.0]).estimate)


def test_samples_are_matched_by_key_and_never_by_position():
    a = {"key": ["w0", "w1", "w2"], "value": [1.0, 2.0, 3.0], "weight": [1.0, 2.0, 3.0]}
    b = {"key": ["w2", "w0", "w1"], "value": [2.5, 0.5, 1.5], "weight": [3.0, 1.0, 2.0]}
    assert paired(a, b).estimate == pytest.approx(0.5)
    for change in ({"key": ["w2", "w0", "w3"]}, {"weight": [3.0, 1.0, 1.0]}):
        with pytest.raises(ValueError, match="the runs"):
            paired(a, b | change)
    with pytest.raises(ValueError, match="at least one sample"):
        paired_difference([], [], [])
