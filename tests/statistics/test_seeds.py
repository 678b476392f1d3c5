import numpy as np
import pytest

from quantbench.bench.coverage import calibration_seeds
from quantbench.statistics import across_seeds
from tests.statistics.simulation import TRIALS, about_95


@pytest.mark.parametrize(("seeds", "sd"), [(4, 0.5), (8, 0.0), (8, 1.0)])
def test_the_interval_holds_the_truth_of_new_seeds_and_windows(seeds, sd):
    assert about_95(calibration_seeds(seeds, sd, TRIALS, np.random.default_rng(0)).coverage)


def test_variance_is_ascribed_to_the_level_it_comes_from():
    generator = np.random.default_rng(0)
    seeds, windows = generator.normal(0, 0.5, (60, 1)), generator.normal(0, 2, (1, 80))
    found = across_seeds(1 + seeds + windows + generator.normal(0, 0.25, (60, 80)))
    assert found.seed_sd == pytest.approx(0.5, rel=0.2)
    assert found.window_sd == pytest.approx(2, rel=0.2)
    assert found.residual_sd == pytest.approx(0.25, rel=0.05)


def test_two_by_two_by_hand():
    # Seeds 0 and 2, windows 0 and 4, no residual: MS_seed = 2 x 2 = 4, MS_window = 2 x 8 = 16, over S W = 4.
    found = across_seeds([[0.0, 4.0], [2.0, 6.0]])
    assert (found.estimate, found.seed_sd, found.residual_sd) == pytest.approx((3.0, np.sqrt(2), 0.0))
    assert found.stderr == pytest.approx(np.sqrt((4 + 16) / 4))


def test_one_seed_says_nothing_about_seeds():
    with pytest.raises(ValueError, match="two seeds"):
        across_seeds([[1.0, 2.0]])
    same = across_seeds(np.zeros((3, 10)))
    assert (same.low, same.high, same.p_value) == (0.0, 0.0, 1.0)
