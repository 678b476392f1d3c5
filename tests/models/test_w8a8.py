"""Linears computed in 8 bits agree with fake quantization, and say where they cannot be."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from quantbench.errors import QuantizationError
from quantbench.formats import FP8, MXFP4, IntFormat, Outliers
from quantbench.methods.activation import DynamicActivation, DynamicQuantizer, LLMInt8, StaticActivation
from quantbench.methods.allocation import Uniform
from quantbench.methods.grid import Grid
from quantbench.methods.histogram import Histogram
from quantbench.methods.range import MinMax
from quantbench.methods.rounding import RTN
from quantbench.methods.transform import NoTransform
from quantbench.methods.variant import Variant
from quantbench.models.linear import QuantLinear
from quantbench.models.packed import PackedLinear, check_packed_weights, quantized_linear, weight_bytes
from quantbench.models.solve import apply_result
from quantbench.models.structure import find_structure
from quantbench.models.w8a8 import W8A8Linear, multiplies_in_8_bits
from quantbench.models.walk import quantize
from tests.models import tiny

CPU = torch.device("cpu")
ROWS = {
    "int8": IntFormat(bits=8, group_size=None),
    "int8-sym": IntFormat(bits=8, group_size=None, symmetric=True),
    "int8-tensor": IntFormat(bits=8, per_tensor=True),
    "e4m3": FP8(),
}
SIDES = {
    "int8-token": ("int8-sym", DynamicActivation(bits=8)),
    "int8-token-asym": ("int8", DynamicActivation(bits=8, symmetric=False)),
    "int8-tensor": ("int8-tensor", DynamicActivation(bits=8, granularity="tensor")),
    "int8-tensor-asym": ("int8-tensor", DynamicActivation(bits=8, granularity="tensor", symmetric=False)),
    "int6-clipped": ("int8", DynamicActivation(bits=6, clip=0.9)),
    "e4m3-token": ("e4m3", DynamicActivation(number="e4m3")),
    "int8-static": ("int8-sym", StaticActivation(bits=8)),
    "int8-static-asym": ("int8", StaticActivation(bits=8, symmetric=False, calibration="percentile", percent=99.0)),
    "e4m3-static": ("e4m3", StaticActivation(number="e4m3")),
    "e4m3-tensor": ("e4m3", DynamicActivation(number="e4m3", granularity="tensor")),
    "llm-int8": ("int8-sym", LLMInt8(threshold=2.0)),
    "llm-int8-bitsandbytes": ("int8-sym", LLMInt8(threshold=2.0, whole_channels=False)),
}


def quantized(format, rows=40, columns=72):
    generator = torch.Generator().manual_seed(rows)
    return Grid(format, MinMax()).nearest(torch.randn(rows, columns, generator=generator), None)


def sides(name):
    weight, activation = SIDES[name]
    seen = Histogram()
    seen.add(tokens((16, 72)))
    return quantized(ROWS[weight]), activation.quantizer("q_proj", "attention_in", seen)


def tokens(shape):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=generator) * torch.exp(torch.randn(shape[-1], generator=generator)) + 0.3


@pytest.mark.parametrize("shape", [(2, 5, 72), (1, 1, 72), (4, 72)], ids=str)
@pytest.mark.parametrize("name", SIDES)
def test_it_computes_what_fake_quantization_does_but_for_the_rounding_of_sums(name, shape):
    weight, inputs = sides(name)
    bias, x = torch.randn(40), tokens(shape)
    fake, real = (
        QuantLinear(weight, bias, dtype=torch.float32, inputs=inputs),
        W8A8Linear(weight, bias, inputs),
    )
    exact = inputs(x).double() @ fake.weight.double().T + bias
    # fake rounds each of 72 products and sums to fp32, integers only what comes of them
    size = inputs(x).double().abs() @ fake.weight.double().abs().T + bias.abs()
    assert bool(((fake(x) - exact).abs() <= 72 * 2.0**-24 * size).all())
    summed = 72 if name.startswith("e4m3") else 4
    assert bool(((real(x) - exact).abs() <= summed * 2.0**-24 * size).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_16_bit_models_round_the_result_alone(dtype):
    weight, inputs = sides("int8-token-asym")
    x = tokens((3, 5, 72)).to(dtype)
    y = W8A8Linear(weight, None, inputs)(x)
    exact = inputs(x.float()).double() @ weight.dequantize().double().T
    assert y.dtype == dtype
    assert bool(((y.double() - exact).abs() <= torch.finfo(dtype).eps * exact.abs()).all())


@pytest.mark.parametrize(
    ("weight", "inputs"),
    [
        ("int8", None),
        ("e4m3", DynamicQuantizer(IntFormat(bits=8, group_size=None))),
        ("int8", DynamicQuantizer(FP8())),
        ("int8", DynamicQuantizer(IntFormat(bits=8, group_size=24))),
        ("int8", DynamicQuantizer(MXFP4())),
    ],
)
def test_other_pairs_multiply_decoded_values(weight, inputs):
    assert not multiplies_in_8_bits(quantized(ROWS[weight]), inputs, CPU)


def test_weights_in_groups_of_other_widths_or_with_some_kept_apart_multiply_decoded_values():
    inputs = DynamicQuantizer(IntFormat(bits=8, group_size=None))
    weight = quantized(ROWS["int8"])
    assert multiplies_in_8_bits(weight, inputs, CPU)
    mask = torch.eye(40, 72, dtype=torch.bool)
    assert not multiplies_in_8_bits(replace(weight, outliers=Outliers.of(torch.ones(40, 72), mask)), inputs, CPU)
    for format in (IntFormat(bits=8, group_size=24), IntFormat(bits=4, group_size=None)):
        assert not multiplies_in_8_bits(quantized(format), inputs, CPU)
    layer = quantized_linear(
        quantized(IntFormat(bits=4, group_size=24 * 3)), nn.Linear(72, 40), execution="packed", name="q", inputs=inputs
    )
    assert isinstance(layer, PackedLinear)
    x = tokens((2, 3, 72))
    fake = QuantLinear(layer.quantized, layer.bias, dtype=torch.float32, inputs=inputs)
    assert torch.allclose(layer(x), fake(x), atol=1e-4, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["int8-token", "int8-tensor-asym", "e4m3-token"])
def test_a_model_computes_in_8_bits_and_can_be_undone(name):
    format, activation = ROWS[SIDES[name][0]], SIDES[name][1]
    model, ids = tiny.build("llama"), tiny.token_ids()
    variant = Variant(format, MinMax(), NoTransform(), RTN(), Uniform(), "fp", activation=activation)
    result = quantize(model, find_structure(model), [variant], None, device=CPU)[0]
    before, full_bytes = model(ids).logits, weight_bytes(model)
    undo = apply_result(model, result)
    fake = model(ids).logits
    undo()
    undo = apply_result(model, result, execution="packed")
    assert all(isinstance(model.get_submodule(name), W8A8Linear) for name in result.weights)
    check_packed_weights(model)
    assert torch.allclose(model(ids).logits, fake, atol=1e-4)
    assert not torch.allclose(fake, before, atol=1e-3)
    assert weight_bytes(model) < full_bytes
    undo()
    assert torch.equal(model(ids).logits, before)


def test_weights_that_were_damaged_are_noticed():
    layer = W8A8Linear(*sides("int8-token")[:1], None, sides("int8-token")[1])
    check_packed_weights(layer)
    layer.codes[0, 0] ^= 1
    with pytest.raises(QuantizationError, match="are not those that its codes stand for"):
        check_packed_weights(layer)


def test_torch_compiles_the_layer_whole():
    weight, inputs = sides("int8-tensor-asym")
    layer, x = W8A8Linear(weight, torch.randn(40), inputs), tokens((2, 5, 72))
    assert torch.equal(torch.compile(layer, backend="aot_eager", fullgraph=True)(x), layer(x))
