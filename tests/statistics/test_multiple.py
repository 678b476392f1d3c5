import numpy as np
import pytest

from quantbench.statistics import holm


def test_holm_by_hand():
    # 4 x 0.01, 3 x 0.02, then 2 x 0.03 = 0.06 is not below the 0.06 before it, and 1 x 0.04 is raised to it.
    assert holm([0.02, 0.01, 0.04, 0.03]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_keeps_false_claims_below_5_percent_with_one_real_difference_among_ten():
    generator = np.random.default_rng(0)
    p = generator.uniform(size=(4000, 10))
    p[:, 0] = 1e-6
    false = [any(value < 0.05 for value in holm(row)[1:]) for row in p]
    assert np.mean(false) == pytest.approx(0.05, abs=0.012)
