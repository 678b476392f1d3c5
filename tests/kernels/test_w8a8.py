"""Products of 8-bit codes: against float64 and the formats, and as an operator that torch compiles."""

import pytest
import torch

from quantbench.formats import FP8, GroupParams, IntFormat
from quantbench.kernels.w8a8 import MOST_COLUMNS, ByteWeight, multiplies, quantize_tokens, w8a8_linear
from quantbench.methods.grid import Grid
from quantbench.methods.range import MinMax

CPU = torch.device("cpu")
INPUTS = {
    "int8-token": IntFormat(bits=8, group_size=None, scale_dtype="float32"),
    "int8-token-sym": IntFormat(bits=8, group_size=None, symmetric=True, scale_dtype="float32"),
    "int4-token": IntFormat(bits=4, group_size=None, scale_dtype="float32"),
    "e4m3-token": FP8(),
}


def byte_weight(format, rows=37, columns=52):
    quantized = Grid(format, MinMax()).nearest(torch.randn(rows, columns, generator=torch.manual_seed(rows)), None)
    codes = quantized.codes
    if isinstance(format, FP8):
        weight = ByteWeight.of(codes.view(torch.float8_e4m3fn), quantized.scale[:, 0])
    else:
        shifted = (codes.short() - 128).to(torch.int8)
        weight = ByteWeight.of(shifted, quantized.scale[:, 0], quantized.zero_point[:, 0] - 128)
    assert torch.equal(weight.dequantize(), quantized.dequantize())
    return weight


def weight_for(format):
    return byte_weight(FP8() if isinstance(format, FP8) else IntFormat(bits=8, group_size=None))


def inputs(m=6, k=52):
    generator = torch.Generator().manual_seed(m)
    return torch.randn(m, k, generator=generator) * torch.exp(torch.randn(k, generator=generator))


def known(format, m=6):
    """A range for each row that does not hold all of its values."""
    return format.params(-torch.arange(float(m)), torch.full((m,), 1.5))


@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
@pytest.mark.parametrize("name", INPUTS)
def test_codes_are_those_of_the_format(name, static):
    format, x = INPUTS[name], inputs()
    own = known(format) if static else format.params(x.amin(1).clamp(max=0) * 0.9, x.amax(1).clamp(min=0) * 0.9)
    own = own.map(lambda t: t[:, None])
    found = quantize_tokens(x, format, known(format) if static else None, clip=0.9, width=64)
    values = (found.codes[:, :52].float() - found.zero[:, None]) * found.scale[:, None]
    assert torch.equal(values, format.decode(format.encode(x, own), own))
    assert not found.codes[:, 52:].float().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
@pytest.mark.parametrize("name", INPUTS)
def test_product_is_that_of_the_quantized_sides_in_float64(name, static, dtype):
    format, x = INPUTS[name], inputs().to(dtype)
    weight, params = weight_for(format), known(format) if static else None
    found = quantize_tokens(x, format, params, width=52)
    decoded = (found.codes.double() - found.zero[:, None]) * found.scale.double()[:, None]
    matrix = weight.dequantize().double()
    exact, size = decoded @ matrix.T, decoded.abs() @ matrix.abs().T
    product = w8a8_linear(x.view(2, 3, 52), weight, format, params)
    assert product.dtype == dtype
    # int8 is summed exactly, but for one rounding to fp32; fp8 is summed in fp32
    allowed = torch.finfo(dtype).eps * exact.abs() + 52 * 2.0**-24 * size * isinstance(format, FP8)
    assert bool(((product.view(6, 37).double() - exact).abs() <= 2 * allowed).all())


def test_sums_at_the_limit_of_columns_do_not_wrap_around():
    format, k = INPUTS["int8-token"], MOST_COLUMNS
    weight = ByteWeight.of(
        torch.full((16, k), 127, dtype=torch.int8), torch.ones(16), torch.full((16,), -128, dtype=torch.int32)
    )
    params = GroupParams(torch.ones(1), torch.zeros(1))
    assert w8a8_linear(torch.full((1, k), 255.0), weight, format, params)[0, 0] == 255.0 * 255 * k


def test_what_cannot_be_multiplied_is_said():
    assert multiplies(INPUTS["int8-token"], CPU)
    assert multiplies(FP8(), CPU)
    assert not multiplies(FP8(element="e5m2"), CPU)
    assert not multiplies(IntFormat(bits=8, group_size=None, zero_point_dtype="float16"), CPU)


@pytest.mark.parametrize("name", INPUTS)
def test_the_operator_is_one_that_torch_compiles(name):
    format = INPUTS[name]
    weight, x = weight_for(format), inputs()

    def layer(x):
        return w8a8_linear(x, weight, format) + 1

    assert torch.equal(torch.compile(layer, backend="aot_eager", fullgraph=True)(x), layer(x))
    float8, integer = isinstance(format, FP8), isinstance(format, IntFormat)
    numbers = (37, format.bits, float8, integer and format.symmetric, False, "float32", 1.0)
    codes, *beside = weight.tensors.values()
    for params in ((None, None), (torch.ones(6), torch.zeros(6))):
        arguments = (x, codes.view(torch.uint8) if float8 else codes, *beside, *params, *numbers)
        torch.library.opcheck(torch.ops.quantbench.w8a8_linear.default, arguments)
