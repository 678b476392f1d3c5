"""What every format promises, on ordinary and on hostile weights, whatever its layout."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from quantbench.config.schema import components
from quantbench.formats import Format, GroupParams, QuantizedWeight, Settled
from quantbench.methods.allocation import Uniform
from quantbench.methods.grid import Grid
from quantbench.methods.range import MinMax
from quantbench.methods.rounding import GPTQ, RTN
from quantbench.methods.stats import SiteStats
from quantbench.methods.transform import NoTransform
from quantbench.methods.variant import Variant
from tests.formats.options import OPTIONS, format_of

WIDEST_BLOCK = 256
NOTHING = 1e-37  # differences of subnormal numbers do not count
EXAMPLES = settings(max_examples=10, deadline=None)
EVERY_FORMAT = pytest.mark.parametrize("option", OPTIONS)


@st.composite
def weights(draw) -> torch.Tensor:
    """Normal weights of any size, with a stretch of zeros, a constant, subnormals, or one huge outlier put in."""
    rows, columns = draw(st.integers(1, 4)), draw(st.sampled_from([1, 5, 16, 31, 33, 64, 100, 130, 256, 300]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    weight = torch.randn(rows, columns, generator=generator) * 10.0 ** draw(st.integers(-3, 2))
    start = draw(st.integers(0, columns - 1))
    spoiled = slice(start, start + draw(st.sampled_from([1, 16, 64, 300])))
    kind = draw(st.sampled_from(["normal", "zeros", "constant", "subnormal", "outlier"]))
    if kind == "zeros":
        weight[:, spoiled] = 0
    elif kind == "constant":
        weight[:, spoiled] = draw(st.sampled_from([0.37, -1.0]))
    elif kind == "subnormal":
        weight[:, spoiled] *= 2.0**-135
    elif kind == "outlier":
        weight[draw(st.integers(0, rows - 1)), start] = draw(st.sampled_from([3e4, -3e4]))
    return weight


def fitting(option: str, weight: torch.Tensor) -> tuple[torch.Tensor, Format]:
    """The weight, widened by repetition to the next width that the format has a layout for, and the format it gets."""
    rows, columns = weight.shape
    chosen = format_of(option)
    for width in range(columns, columns + WIDEST_BLOCK):
        try:
            format = chosen.for_shape(rows, width)
        except ValueError:
            continue
        return weight[:, torch.arange(width) % columns], format
    raise AssertionError(f"{option} has no layout for {columns} to {columns + WIDEST_BLOCK - 1} columns")


def rounded(option: str, weight: torch.Tensor) -> tuple[torch.Tensor, QuantizedWeight]:
    weight, format = fitting(option, weight)
    return weight, Grid(format, MinMax()).nearest(weight, None)


def per_column(quantized: QuantizedWeight) -> GroupParams:
    groups = quantized.column_groups()
    return quantized.params.map(lambda t: t[:, groups])


def values(format: Format, params: GroupParams) -> torch.Tensor:
    """Every value of every weight's code, fp32 [codes, rows, columns]; NaN for codes that rounding does not use."""
    shape = params.scale.shape
    found = []
    for code in range(2**format.bits):
        value = format.decode(torch.full(shape, float(code)), params)
        used = torch.isfinite(value) & (format.encode(value.nan_to_num(0, 0, 0), params) == code)
        found.append(torch.where(used, value, torch.nan))
    return torch.stack(found)


@EVERY_FORMAT
@given(weight=weights())
@EXAMPLES
def test_unpacking_gives_back_the_codes_and_the_values(option, weight):
    _, quantized = rounded(option, weight)
    restored = QuantizedWeight.unpack(quantized.pack(), format=quantized.format)
    assert torch.equal(restored.codes, quantized.codes)
    assert torch.equal(restored.dequantize(), quantized.dequantize())


@EVERY_FORMAT
@given(weight=weights())
@EXAMPLES
def test_bits_per_weight_are_those_of_the_packed_bytes(option, weight):
    weight, quantized = rounded(option, weight)
    packed = quantized.pack()
    assert quantized.nbytes == packed.nbytes
    assert quantized.bits_per_weight == pytest.approx(8 * packed.nbytes / weight.numel())


@EVERY_FORMAT
@given(weight=weights())
@EXAMPLES
def test_no_value_of_the_grid_is_nearer(option, weight):
    weight, quantized = rounded(option, weight)
    grid = values(quantized.format, per_column(quantized)).double()
    value = quantized.dequantize().double()
    assert torch.isfinite(value).all()
    distance = (grid - weight.double()).abs().nan_to_num(torch.inf)
    largest = grid.abs().nan_to_num(0).amax(0)
    assert ((value - weight.double()).abs() <= distance.amin(0) + 1e-6 * largest + NOTHING).all()
    assert ((grid - value).abs().nan_to_num(torch.inf).amin(0) <= NOTHING).all()  # and it is one of them


@EVERY_FORMAT
@given(weight=weights())
@EXAMPLES
def test_rounding_again_changes_nothing(option, weight):
    _, quantized = rounded(option, weight)
    grid = Grid(quantized.format, MinMax())
    again = grid.encode(quantized.dequantize(), Settled(quantized.params, quantized.levels))
    assert torch.equal(again.dequantize(), quantized.dequantize())


@EVERY_FORMAT
def test_zeros_stay_zero(option):
    assert rounded(option, torch.zeros(3, 300))[1].dequantize().abs().max() == 0


def problem(option: str, rows: int) -> tuple[torch.Tensor, Format, SiteStats]:
    """Weights, the format they get, and what calibration saw; widths are ragged where the format takes them so."""
    generator = torch.Generator().manual_seed(0)
    weight, format = fitting(option, torch.randn(rows, 300, generator=generator))
    columns = weight.shape[1]
    mix = torch.randn(columns, columns, generator=generator) / columns**0.5
    inputs = torch.randn(2 * columns, columns, generator=generator) @ mix
    stats = SiteStats.empty(columns)
    stats.update(inputs)
    stats.fisher = torch.rand(weight.shape, generator=generator)
    return weight, format, stats


@EVERY_FORMAT
def test_gptq_has_less_output_error_than_rtn(option):
    weight, format, stats = problem(option, rows=16)
    grid = Grid(format, MinMax())
    gptq, rtn = (stats.output_error(r.round(weight, grid, stats).weight.dequantize() - weight) for r in (GPTQ(), RTN()))
    assert gptq < rtn


@EVERY_FORMAT
@pytest.mark.parametrize("rounding", [RTN(), GPTQ(act_order=True)], ids=["rtn", "gptq"])
def test_every_range_that_is_not_refused_gives_weights_that_pack(option, rounding):
    weight, format, stats = problem(option, rows=2)
    for range_ in (cls() for cls in components("range").values()):
        variant = Variant(format, range_, NoTransform(), rounding, Uniform(), "fp")
        try:
            variant.check()
        except ValueError:
            continue
        quantized = rounding.round(weight, Grid(format, range_), stats).weight
        assert torch.isfinite(quantized.dequantize()).all(), range_
        restored = QuantizedWeight.unpack(quantized.pack(), format=quantized.format)
        assert torch.equal(restored.dequantize(), quantized.dequantize()), range_
