import numpy as np
import pytest

from quantbench.layers import LayerError, block_curves, layer_measurements

NAMES = ["m.0.a.q", "m.0.a.k", "m.1.a.q", "m.1.a.k", "m.2.a.q"]
ERRORS = {
    "m.1.a.q": LayerError(0.3, 0.03, 10),
    "m.0.a.q": LayerError(0.1, None, 10),
    "m.0.a.k": LayerError(0.2, 0.02, 30),
}


def test_a_mean_counts_elements_and_samples_keep_the_order_of_the_model():
    weights, outputs = layer_measurements(NAMES, ERRORS)
    assert (weights.metric, weights.task, weights.count) == ("weight_error", "layers", 3)
    assert weights.value == pytest.approx((0.1 * 10 + 0.2 * 30 + 0.3 * 10) / 50)
    assert weights.samples.keys == ("m.0.a.q", "m.0.a.k", "m.1.a.q")
    assert weights.samples.weights.tolist() == [10, 30, 10]
    assert outputs.metric == "output_error"
    assert outputs.samples.keys == ("m.0.a.k", "m.1.a.q")
    assert outputs.value == pytest.approx((0.02 * 30 + 0.03 * 10) / 40)
    assert weights.stderr is weights.ci_low is weights.ci_high is None


def test_what_was_not_looked_at_is_not_measured():
    assert layer_measurements(NAMES, {}) == []
    (only,) = layer_measurements(NAMES, {"m.0.a.q": LayerError(0.1, None, 10)})
    assert only.metric == "weight_error"


def test_curves_average_the_experts_of_a_block_and_keep_shared_ones_apart():
    keys = ["h.0.mlp.experts.0.up", "h.0.mlp.experts.1.up", "h.0.mlp.shared.up", "h.12.mlp.experts.0.up"]
    curves = block_curves(keys, np.array([0.1, 0.4, 0.5, 0.6]), np.array([1.0, 2.0, 1.0, 1.0]))
    assert list(curves) == ["mlp.experts.up", "mlp.shared.up"]
    assert curves["mlp.experts.up"] == pytest.approx({0: 0.3, 12: 0.6})
    assert curves["mlp.shared.up"] == {0: 0.5}
