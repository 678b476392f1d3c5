"""HQQ against errors that the hqq package left on the same tensors (experiments/hqq-witness/golden.py wrote them)."""

import json
from pathlib import Path

import pytest
import torch

from quantbench.formats import IntFormat
from quantbench.kernels.hqq.reference import shrunk, subtract_shrunk
from quantbench.methods.grid import Grid
from quantbench.methods.range import HQQ as HQQRange
from quantbench.methods.range import MSE, AWQClip, MinMax
from quantbench.methods.rounding import GPTQ, HQQ, RTN
from quantbench.methods.stats import SiteStats

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "hqq_golden.json").read_text(encoding="utf-8"))


def real_zero(bits: int, range_=None) -> Grid:
    return Grid(IntFormat(bits=bits, group_size=GOLDEN["group_size"], zero_point_dtype="float16"), range_ or MinMax())


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: f"{case['name']}-w{case['bits']}")
def test_error_is_the_packages_within_one_percent(case):
    generator = torch.Generator().manual_seed(case["seed"])
    weight = torch.randn(96, 256, generator=generator).pow(case["exponent"]) * case["spread"] + case["offset"]
    assert float(weight.double().abs().sum()) == pytest.approx(case["checksum"], rel=1e-6)
    solver = HQQ(rounded_start=False)  # as the package's quantizer does unless its layer asks for more
    delta = solver.round(weight, real_zero(case["bits"]), None).weight.dequantize() - weight
    assert float(delta.norm() / weight.norm()) == pytest.approx(case["relative"], rel=0.01)
    assert float(delta.abs().mean()) == pytest.approx(case["absolute"], rel=0.01)


@pytest.mark.parametrize(("bits", "rounded"), [(4, True), (3, False)])
def test_only_four_bits_start_from_an_integer_zero_point_as_in_the_packages_layers(bits, rounded):
    weight, largest = weights(), 2**bits - 1
    format = IntFormat(bits=bits, group_size=64, zero_point_dtype="float32", scale_dtype="float32")
    actual = HQQ(iterations=1).round(weight, Grid(format, MinMax()), None).weight.zero_point
    groups = weight.double().view(16, 4, 64)
    low = groups.amin(2, keepdim=True)
    steps = groups * largest / (groups.amax(2, keepdim=True) - low)
    zero = -low * largest / (groups.amax(2, keepdim=True) - low)
    zero = zero.round() if rounded else zero
    codes = (steps + zero).round().clamp(0, largest)
    torch.testing.assert_close(actual.double(), (codes - steps).mean(2), rtol=0, atol=1e-4)


def weights(rows: int = 16, columns: int = 256) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(3)) * 0.02


def test_zero_point_is_a_fixed_point_of_the_papers_update_in_float64():
    weight = weights()
    format = IntFormat(bits=4, group_size=64, zero_point_dtype="float32", scale_dtype="float32")
    solved = HQQ(iterations=200).round(weight, Grid(format, MinMax()), None).weight
    scale, zero = (t.double().unsqueeze(2) for t in (solved.scale, solved.zero_point))
    groups, codes = weight.double().view(16, 4, 64), solved.codes.double().view(16, 4, 64)
    # e is zero for residuals this small, so zero = mean(code - w / scale)
    torch.testing.assert_close((codes - groups / scale).mean(2), zero[..., 0], rtol=0, atol=2e-3)


def test_large_residuals_are_shrunk_as_the_proximal_step_says():
    residual = torch.tensor([-1.0, -0.1, 0.0, 0.16, 0.18, 2.0])
    magnitude = residual.double().abs()
    expected = residual.sign() * (magnitude - magnitude.pow(-0.3) / 10).clamp(min=0)
    torch.testing.assert_close(shrunk(residual, 0.7, 10.0).double(), expected.double())
    scale, error = torch.full((1, 1), 0.5), residual[None] / 0.5
    subtract_shrunk(error, scale, 0.7, 10.0)
    torch.testing.assert_close((error * 0.5).double(), (residual - expected)[None].double())


def test_rows_do_not_depend_on_their_neighbours():
    weight = weights()
    weight[:8] *= 30
    together = HQQ().round(weight, real_zero(3), None).weight
    for part, rows in zip(together.split_rows([8, 8]), (weight[:8], weight[8:]), strict=True):
        assert torch.equal(part.dequantize(), HQQ().round(rows, real_zero(3), None).weight.dequantize())


def test_as_a_range_with_nearest_codes_it_is_the_rounding():
    by_range = RTN().round(weights(), real_zero(4, HQQRange()), None).weight
    by_rounding = HQQ().round(weights(), real_zero(4), None).weight
    assert torch.equal(by_range.dequantize(), by_rounding.dequantize())


def test_starts_from_the_grid_of_the_range_axis():
    weight, errors = weights() + 0.01, {}
    for rounding in (HQQ(), RTN()):
        solved = rounding.round(weight, real_zero(3, MSE(norm=2.0)), None).weight
        errors[type(rounding)] = float((solved.dequantize() - weight).norm())
        assert torch.equal(solved.scale, MSE(norm=2.0).fit(weight.view(-1, 64), solved.format, None).scale.view(16, 4))
    assert errors[HQQ] < 0.99 * errors[RTN]


def test_a_range_that_wants_activations_gets_them_and_is_noted_without():
    stats = SiteStats.empty(256)
    stats.update(torch.randn(64, 256, generator=torch.Generator().manual_seed(0)))
    known = HQQ().round(weights(), real_zero(3, AWQClip()), stats)
    unknown = HQQ().round(weights(), real_zero(3, AWQClip()), None)
    assert not known.notes
    assert "range fitted to the weights alone" in unknown.notes[0]
    assert not torch.equal(known.weight.scale, unknown.weight.scale)


def test_gptq_rounds_on_a_real_zero_point():
    stats = SiteStats.empty(256)
    stats.update(torch.randn(512, 256, generator=torch.Generator().manual_seed(0)).cumsum(1) * 0.1)
    weight = weights()
    errors = [
        stats.output_error(rounding.round(weight, real_zero(3, HQQRange()), stats).weight.dequantize() - weight)
        for rounding in (GPTQ(), RTN())
    ]
    assert errors[0] < 0.5 * errors[1]


def test_kept_weights_stay_out_of_the_fit():
    weight = weights()
    weight[0, 0] = 50.0
    keep = torch.zeros_like(weight, dtype=torch.bool)
    keep[0, 0] = True
    values = HQQ().round(weight, real_zero(4), None, keep=keep).weight.dequantize()
    assert values[0, 0] == 50.0
    assert (values - weight).abs().max() < 0.02
