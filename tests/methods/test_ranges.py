"""Range rules against brute force in float64, numpy and scipy; each on every format that an interval determines."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from quantbench.config.schema import components
from quantbench.formats import MXFP4, Format, IntFormat
from quantbench.methods.grid import Grid
from quantbench.methods.range import HQQ, KL, MSE, MinMax, Percentile
from quantbench.methods.range.base import weight_range

RANGES = {
    "minmax": MinMax(),
    "percentile": Percentile(percent=99.5),
    "mse": MSE(grid=20),
    "kl": KL(grid=20, max_shrink=0.8),  # its default, down to a sixteenth, suits whole tensors only
    "hqq": HQQ(),
}
COLUMNS = 512


def weights(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    """Heavy-tailed, a little off centre, of a language model's size."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator).pow(3) * 0.02 + 0.005


def fitted_to_an_interval() -> list[Format]:
    """Every format at its defaults whose grid follows from an interval alone (no learned codebook)."""
    one = torch.ones(1, 1)
    formats: list[Format] = [made() for made in components("format").values()]
    return [f for f in formats if f.params(-one, one).codebook is None]


INTEGERS = {
    "int3-asym": IntFormat(bits=3, group_size=64),
    "int4-sym": IntFormat(bits=4, group_size=64, symmetric=True),
    "int8-narrow": IntFormat(bits=8, group_size=64, symmetric=True, narrow_range=True),
    "int4-float-zero": IntFormat(bits=4, group_size=64, zero_point_dtype="float16"),
}
FORMATS = {type(f).__name__: f for f in fitted_to_an_interval()} | INTEGERS


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS.keys())
@pytest.mark.parametrize("range_", RANGES.values(), ids=RANGES.keys())
def test_every_range_fits_every_format(range_, format):
    weight = weights(6, COLUMNS)
    weight[0] = 0
    weight[1] = 0.25
    weight[2, 5] = 1e4
    values = Grid(format, range_).nearest(weight, None).dequantize()
    assert torch.isfinite(values).all()
    assert values[0].abs().max() <= 1e-6
    # formats of one or two bits are coarse on the whole interval; then a search must not make it worse
    nearest = Grid(format, MinMax()).nearest(weight, None).dequantize()
    allowed = torch.maximum(0.75 * weight.norm(dim=1), 1.001 * (nearest - weight).norm(dim=1))
    assert ((values - weight).norm(dim=1) <= allowed)[3:].all()


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS.keys())
@pytest.mark.parametrize("name", ["percentile", "mse", "kl"])
def test_many_rows_at_once_are_fitted_as_if_alone(name, format, monkeypatch):
    monkeypatch.setattr("quantbench.methods.range.search._CHUNK_ELEMENTS", 100)  # three rows of 32 at a time
    weight = weights(7, 32)
    together = RANGES[name].fit(weight, format, None)
    for row in range(len(weight)):
        alone = RANGES[name].fit(weight[row : row + 1], format, None)
        torch.testing.assert_close(together.scale[row], alone.scale[0], rtol=0, atol=0)
        torch.testing.assert_close(together.zero_point[row], alone.zero_point[0], rtol=0, atol=0)


def asymmetric(low: float, high: float, bits: int) -> tuple[float, float]:
    scale = (high - low) / (2**bits - 1)
    return scale, np.clip(np.round(-low / scale), 0, 2**bits - 1)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("norm", [2.0, 2.4])
def test_mse_finds_the_factor_that_brute_force_finds(bits, norm):
    weight = weights(8, 96, seed=bits)
    format = IntFormat(bits=bits, group_size=None, scale_dtype="float32")
    scales = MSE(norm=norm).fit(weight, format, None).scale[:, 0]
    for row, scale in zip(weight.double().numpy(), scales, strict=True):
        low, high = min(row.min(), 0), max(row.max(), 0)

        def cost(factor, row=row, low=low, high=high):
            step, zero = asymmetric(low * factor, high * factor, bits)
            codes = np.clip(np.round(row / step) + zero, 0, 2**bits - 1)
            return (np.abs((codes - zero) * step - row) ** norm).sum()

        factors = [1 - step / 100 for step in range(80)]
        best = min(factors, key=cost)
        found = float(scale) * (2**bits - 1) / (high - low)
        assert found == pytest.approx(best, abs=1e-5) or cost(found) == pytest.approx(cost(best), rel=1e-5)


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS.keys())
def test_mse_is_never_worse_than_min_max_in_its_own_norm(format):
    weight = weights(16, 128)
    errors = []
    for range_ in (MSE(), MinMax()):
        params = range_.fit(weight, format, None)
        errors.append((format.decode(format.encode(weight, params), params) - weight).abs().pow(2.4).sum(1))
    assert (errors[0] <= errors[1] * (1 + 1e-5)).all()


@pytest.mark.parametrize("percent", [60.0, 99.0, 99.9, 100.0])
@pytest.mark.parametrize("columns", [1, 2, 64, 1001])
def test_percentile_ends_are_numpys_quantiles(percent, columns):
    weight = weights(5, columns)
    format = IntFormat(bits=8, zero_point_dtype="float32", scale_dtype="float32")
    params = Percentile(percent=percent).fit(weight, format, None)
    tail = (1 - percent / 100) / 2
    low = np.minimum(np.quantile(weight.double().numpy(), tail, axis=1), 0)
    high = np.maximum(np.quantile(weight.double().numpy(), 1 - tail, axis=1), 0)
    np.testing.assert_allclose(params.scale[:, 0] * 255, high - low, rtol=1e-5)
    np.testing.assert_allclose(-params.zero_point[:, 0] * params.scale[:, 0], low, rtol=1e-4, atol=1e-7)


def divergence(row: np.ndarray, low: float, high: float, factor: float, bits: int, bins: int) -> float:
    """KL(P || Q) of one candidate, bin by bin (the definition in KL's docstring), in float64."""
    width = (high - low) / bins
    counts = np.zeros(bins)
    for value in row:
        counts[min(int((value - low) / width), bins - 1)] += 1
    centres = low + (np.arange(bins) + 0.5) * width
    inside = [i for i in range(bins) if low * factor <= centres[i] <= high * factor]
    reference, counted = np.zeros(bins), np.zeros(bins)
    step, zero = asymmetric(low * factor, high * factor, bits)
    cells: dict[float, list[int]] = {}
    for i in range(bins):
        reference[min(max(i, inside[0]), inside[-1])] += counts[i]
    for i in inside:
        counted[i] = counts[i]
        cells.setdefault(np.clip(np.round(centres[i] / step) + zero, 0, 2**bits - 1), []).append(i)
    quantized = np.zeros(bins)
    for cell in cells.values():
        filled = [i for i in cell if reference[i] > 0]
        for i in filled:
            quantized[i] = counted[cell].sum() / len(filled)
    return entropy(reference, quantized)


@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize("columns", [40, 600])
def test_kl_finds_the_factor_of_least_entropy_bin_by_bin(bits, columns):
    weight = weights(3, columns, seed=bits)
    format = IntFormat(bits=bits, group_size=None, scale_dtype="float32")
    range_ = KL(bins=200, grid=20, max_shrink=0.8)
    scales = range_.fit(weight, format, None).scale[:, 0]
    for row, scale in zip(weight.double().numpy(), scales, strict=True):
        low, high = row.min(), row.max()
        costs = {}
        for step in range(16):
            costs[1 - step / 20] = divergence(row, low, high, 1 - step / 20, bits, min(200, columns))
        found = float(scale) * (2**bits - 1) / (high - low)
        nearest = min(costs, key=lambda factor: abs(factor - found))
        assert nearest == pytest.approx(found, abs=1e-4)
        assert costs[nearest] == pytest.approx(min(costs.values()), rel=0.02, abs=1e-6)


def test_kl_clips_an_outlier_and_min_max_does_not():
    weight = torch.randn(1, 4096, generator=torch.Generator().manual_seed(0))
    weight[0, 0] = 12.0
    format = IntFormat(bits=4, symmetric=True)
    clipped, whole = (r.fit(weight, format, None).scale.item() for r in (KL(), MinMax()))
    assert clipped < 0.6 * whole


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS.keys())
def test_half_quadratic_lowers_the_error_of_every_format(format):
    weight = weights(32, 128)
    errors = []
    for range_ in (HQQ(), MinMax()):
        params = range_.fit(weight, format, None)
        errors.append(float((format.decode(format.encode(weight, params), params) - weight).abs().pow(0.7).sum()))
    assert errors[0] <= errors[1]
    if isinstance(format, IntFormat) and format.bits < 8:
        assert errors[0] < 0.999 * errors[1]


def test_ranges_shrink_both_ends_by_one_factor():
    weight = torch.cat([weights(4, 256), torch.full((4, 1), 3.0)], 1)
    format = IntFormat(bits=3, group_size=None, scale_dtype="float32", zero_point_dtype="float32")
    low, high = weight_range(weight)
    params = MSE().fit(weight, format, None)
    torch.testing.assert_close(params.zero_point, format.params(low, high).zero_point, rtol=1e-4, atol=1e-4)
    assert (params.scale < (high - low) / 7).all()


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: Percentile(percent=40), "range.percent=40: allowed are values above 50"),
        (lambda: MSE(norm=0), "range.norm=0: allowed are positive numbers"),
        (lambda: MSE(grid=0), "range.grid=0: allowed is a positive integer"),
        (lambda: MSE(max_shrink=1.5), "range.max_shrink=1.5: allowed are values above 0"),
        (lambda: KL(bins=1), "range.bins=1: allowed is an integer above 1"),
        (lambda: KL(max_shrink=1.0), "range.max_shrink=1.0: allowed are values between 0 and 1"),
        (lambda: HQQ(lp_norm=1.5), "lp_norm=1.5: allowed are values above 0"),
        (lambda: HQQ(beta=math.nan), "beta=nan: allowed are positive numbers"),
        (lambda: HQQ(kappa=0.5), "kappa=0.5: allowed are numbers from 1"),
        (lambda: HQQ(iterations=0), "iterations=0: allowed is a positive integer"),
    ],
)
def test_out_of_range_hyperparameters_are_named(made, message):
    with pytest.raises(ValueError, match=message):
        made()


def test_a_growing_search_finds_the_best_power_of_two_of_an_mxfp4_block():
    """Against every exponent near, in float64: OCP's rule clips what lies above 6 times the scale (MR-GPTQ)."""
    weight = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    weight[::4] *= weight[::4].abs()
    values = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=torch.float64)
    values = torch.cat([-values.flip(0), values])
    errors = []
    for exponent in range(-6, 3):
        scaled = weight.double() / 2.0**exponent
        nearest = values[(scaled[..., None] - values).abs().argmin(-1)]
        errors.append(((nearest - scaled) * 2.0**exponent).square().sum(1))
    best = 2.0 ** (torch.stack(errors).argmin(0) - 6)
    format = MXFP4(bits=4, group_size=32)
    found = MSE(norm=2.0, grid=2, max_shrink=1.0, max_growth=1.0).fit(weight, format, None).scale.flatten()
    assert torch.equal(found, best.float())
    assert (found != MinMax().fit(weight, format, None).scale.flatten()).any()
    with pytest.raises(ValueError, match=r"range\.max_growth=-1: allowed are 0"):
        MSE(max_growth=-1)
