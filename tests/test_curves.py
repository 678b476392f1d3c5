"""The loss curve as a measurement."""

import numpy as np

from quantbench.curves import DIAGNOSTICS, curve_measurements


def test_a_curve_has_a_sample_for_each_step_and_its_end_as_value():
    (curve,) = curve_measurements([3.0, *np.linspace(2, 1, 19)])
    assert curve.metric in DIAGNOSTICS
    assert (curve.baseline, curve.count) == (3.0, 20)
    assert curve.value == np.mean(np.linspace(2, 1, 19)[-2:])
    assert curve.samples.keys[0] == "1"
    assert curve.samples.keys[-1] == "20"
    assert curve.stderr is None
    assert curve.ci_low is None
    assert curve_measurements([]) == []


def test_a_long_curve_is_thinned_to_means_of_its_steps():
    losses = np.random.default_rng(0).random(2500).tolist()
    (curve,) = curve_measurements(losses)
    assert len(curve.samples.keys) == 1000
    assert curve.samples.keys[-1] == "2500"
    assert curve.samples.weights.sum() == 2500
    assert np.isclose(np.average(curve.samples.values, weights=curve.samples.weights), np.mean(losses))
