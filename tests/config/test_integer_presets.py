"""Integer presets: the formula of each on real numbers, and the settings of libraries that drift from the papers."""

import pytest
import torch

from quantbench.config import RunConfig, check_command_line
from quantbench.methods.grid import Grid
from quantbench.methods.range import KL, MSE, MinMax, Percentile
from quantbench.methods.rounding import GPTQ, HQQ, RTN


def compose(method: str) -> RunConfig:
    return check_command_line([f"method={method}"], multirun=False)[0]


def quantized(method: str, weight: torch.Tensor):
    config = compose(method)
    return config.rounding.round(weight, Grid(config.format, config.range), None).weight


WEIGHT = torch.randn(4, 192, generator=torch.Generator().manual_seed(0)) * 0.02 + 0.01


def test_absmax_is_max_over_127_for_each_row():
    absmax = WEIGHT.abs().amax(1, keepdim=True)
    result = quantized("absmax", WEIGHT)
    torch.testing.assert_close(result.scale, absmax / 127, rtol=1e-3, atol=0)
    assert int(result.codes.min()) >= 1  # code 0 would be -128
    assert result.bits_per_weight == 8 + 16 / 192


def test_zeropoint_is_the_span_over_255_for_each_row():
    low, high = WEIGHT.amin(1, keepdim=True), WEIGHT.amax(1, keepdim=True)
    result = quantized("zeropoint", WEIGHT)
    torch.testing.assert_close(result.scale, (high - low) / 255, rtol=1e-3, atol=0)
    assert torch.equal(result.zero_point, torch.round(-low / result.scale))
    assert result.bits_per_weight == 8 + (16 + 8) / 192


@pytest.mark.parametrize(
    ("method", "range_", "bits", "symmetric"),
    [
        ("percentile", Percentile(percent=99.9), 8, True),
        ("kl", KL(bins=2048, grid=128, max_shrink=1 - 128 / 2048), 8, True),
        ("mse", MSE(norm=2.4, grid=100, max_shrink=0.8), 4, False),
        ("mse_llmcompressor", MSE(norm=2.4, grid=100, max_shrink=0.2), 4, True),
    ],
)
def test_range_presets_have_the_settings_of_their_source(method, range_, bits, symmetric):
    config = compose(method)
    assert (config.range, config.rounding) == (range_, RTN())
    assert (config.format.bits, config.format.symmetric) == (bits, symmetric)


def test_kl_takes_one_range_a_matrix_and_clips_its_outliers():
    weight = torch.randn(32, 1024, generator=torch.Generator().manual_seed(1)) * 0.02
    weight[0, 0] = 1.0
    config = compose("kl")
    whole = RTN().round(weight, Grid(config.format, MinMax()), None).weight
    clipped = quantized("kl", weight)
    assert len(clipped.scale.unique()) == 1
    assert float(clipped.scale[0, 0]) < 0.5 * float(whole.scale[0, 0])
    assert float((clipped.dequantize() - weight)[1:].norm()) < 0.5 * float((whole.dequantize() - weight)[1:].norm())


def test_hqq_has_the_settings_of_the_authors_package():
    config = compose("hqq")
    assert config.rounding == HQQ(lp_norm=0.7, beta=10, kappa=1.01, iterations=20)
    assert config.range == MinMax()
    assert (config.format.bits, config.format.group_size, config.format.zero_point_dtype) == (4, 64, "float16")
    assert quantized("hqq", WEIGHT).bits_per_weight == 4 + 32 / 64


@pytest.mark.parametrize(
    ("method", "rounding"),
    [
        ("gptq_gptqmodel", GPTQ(damp_percent=0.05, true_sequential=True)),
        ("gptq_llmcompressor", GPTQ(damp_percent=0.01, act_order=True, static_groups=True)),
    ],
)
def test_gptq_of_a_library_has_that_librarys_defaults(method, rounding):
    config = compose(method)
    assert config.rounding == rounding
    assert (config.format.bits, config.format.group_size, config.format.symmetric) == (4, 128, True)
