"""Static ranges against histograms and searches written out in numpy, over the very values."""

import numpy as np
import pytest
import torch

from quantbench.methods.activation import DynamicQuantizer, StaticActivation, StaticQuantizer
from quantbench.methods.histogram import Histogram
from quantbench.methods.range.kl import KL

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(600, 64, generator=GENERATOR)
X[::97, 5] *= 20  # an outlier channel, now and then


def calibrated(x=X, **options):
    seen = Histogram()
    for part in x.split(100):
        seen.add(part)
    quantizer = StaticActivation(**options).quantizer("layers.0.q_proj", "attention_in", seen)
    assert isinstance(quantizer, StaticQuantizer)
    return quantizer


def scale_of(**options):
    return calibrated(**options).params.scale.item()


def test_minmax_covers_the_largest_magnitude_exactly():
    assert scale_of() == np.float32(X.abs().max()) / np.float32(127)
    assert scale_of(bits=4) == np.float32(X.abs().max()) / np.float32(7)
    assert scale_of(number="e4m3") == np.float32(X.abs().max()) / np.float32(448)


def test_asymmetric_minmax_has_the_zero_point_of_the_span():
    x = X.relu() - 0.25
    params = calibrated(x, symmetric=False).params
    span = x.max() - x.min()
    torch.testing.assert_close(params.scale, span / 255)
    assert params.zero_point == torch.round(-x.min() / params.scale)


def test_percentile_is_numpys_to_the_width_of_a_bin():
    ordered = np.sort(X.numpy().astype(np.float64), axis=None)
    bound, outside = 2.0 ** np.ceil(np.log2(np.abs(ordered).max())), int(0.0005 * len(ordered))
    expected = max(-ordered[outside], ordered[-1 - outside]) / 127
    assert scale_of(calibration="percentile", percent=99.9) == pytest.approx(expected, abs=bound / 8192 / 127)
    assert expected < 0.9 * scale_of()


def test_mse_is_the_best_of_the_shrunken_ranges_for_the_values_themselves():
    x, top = X.numpy().astype(np.float64), float(X.abs().max())

    def error(scale):
        return np.square(np.clip(np.rint(x / scale), -127, 127) * scale - x).sum()

    candidates = [top * (1 - step / 100) / 127 for step in range(80)]
    found = scale_of(calibration="mse")
    assert found in [pytest.approx(c, rel=1e-6) for c in candidates]
    assert error(found) <= 1.001 * min(map(error, candidates))  # it sees the centres of bins
    assert error(found) < error(scale_of())


def test_kl_is_the_divergence_of_quantized_counts_written_out():
    counts, centres = np.histogram(X.numpy().astype(np.float64), 2048, (-64, 64))
    centres = (centres[1:] + centres[:-1]) / 2
    top = float(X.abs().max())

    def divergence(bound):
        inside = np.abs(centres) <= bound
        p = np.where(inside, counts, 0).astype(np.float64)
        first, last = np.flatnonzero(inside)[[0, -1]]
        p[first] += counts[:first].sum()
        p[last] += counts[last + 1 :].sum()
        cell = np.rint(np.clip(centres, -bound, bound) / (bound / 127))
        q = np.zeros_like(p)
        for value in np.unique(cell[inside]):
            members = inside & (cell == value) & (p > 0)
            if members.any():
                q[members] = counts[inside & (cell == value)].sum() / members.sum()
        if np.any((p > 0) & (q == 0)):
            return np.inf
        p, q = p / p.sum(), q / q.sum()
        return np.sum(p[p > 0] * np.log(p[p > 0] / q[p > 0]))

    assert 32 <= top < 64, "the range of the histogram below"
    bounds = [top * (1 - step / 128) for step in range(int(KL().max_shrink * 128))]
    divergences = [divergence(bound) for bound in bounds]
    assert 127 * scale_of(calibration="kl") == pytest.approx(bounds[int(np.argmin(divergences))], rel=1e-5)
    assert np.argmin(divergences) > 0


def test_values_are_rounded_and_clipped_to_the_codes():
    quantizer = calibrated(calibration="percentile", percent=99.0)
    scale = quantizer.params.scale
    expected = torch.clamp(torch.round(X / scale), -127, 127) * scale
    assert torch.equal(quantizer(X), expected)
    assert torch.equal(
        quantizer(X.bfloat16()), (torch.clamp(torch.round(X.bfloat16().float() / scale), -127, 127) * scale).bfloat16()
    )
    assert expected.abs().max() < X.abs().max() / 2


def test_inputs_that_were_never_seen_are_quantized_as_they_come():
    quantizer = StaticActivation().quantizer("experts.3.up_proj", "mlp_in", Histogram())
    assert quantizer == DynamicQuantizer(StaticActivation().format(), per_token=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"calibration": "max"}, "activation.calibration=max: allowed are minmax, percentile, mse, kl"),
        ({"group_size": 16}, "activation.group_size=16: allowed for static scales is null"),
        ({"number": "nvfp4", "bits": 4}, "activation.group_size=16: allowed for static scales is null"),
        ({"percent": 0.99}, "activation.percent=0.99: allowed are values above 50 and up to 100"),
    ],
)
def test_wrong_settings_are_named(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        StaticActivation(**options)
