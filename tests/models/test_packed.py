"""Packed execution: the layer computes with exactly the weights that were scored, and takes the bytes it says."""

import pytest
import torch
from torch import nn

from quantbench.errors import QuantizationError
from quantbench.formats import LUT, Format, IntBilevel, IntFormat
from quantbench.formats.gguf import GGUFFormat
from quantbench.kernels.linear import dequantize
from quantbench.methods.allocation import Uniform
from quantbench.methods.grid import Grid
from quantbench.methods.range import MinMax
from quantbench.methods.rounding import GPTQ, RTN
from quantbench.methods.stats import SiteStats
from quantbench.methods.transform import NoTransform
from quantbench.methods.variant import Variant
from quantbench.models.linear import QuantLinear
from quantbench.models.packed import PackedLinear, check_packable, check_packed_weights, weight_bytes
from quantbench.models.solve import apply_result
from quantbench.models.structure import find_structure
from quantbench.models.walk import quantize
from tests.formats.options import OPTIONS, format_of
from tests.models import tiny

INTEGERS = {
    "w2-g32": IntFormat(bits=2, group_size=32),
    "w3-ragged": IntFormat(bits=3, group_size=64),
    "w4-sym-row": IntFormat(bits=4, group_size=None, symmetric=True),
    "w5": IntFormat(bits=5, group_size=32),
    "w6-bf16": IntFormat(bits=6, group_size=96, scale_dtype="bfloat16"),
    "w8-g16-fp32": IntFormat(bits=8, group_size=16, scale_dtype="float32"),
    "w4-real-zero": IntFormat(bits=4, group_size=32, zero_point_dtype="float16"),
    "w4-tensor": IntFormat(bits=4, per_tensor=True),
}
FORMATS = (
    INTEGERS
    | {"w3-bilevel-g32": IntBilevel(bits=3, group_size=32), "lut-g40": LUT(bits=8, group_size=40)}
    | {option: format_of(option) for option in OPTIONS}
)


class Other(Format):
    """A format of somebody else."""

    stored_zero_point = storage_dtype = None
    params = encode = decode = None


def quantized(format, rows=40, columns=160):
    columns = 256 if isinstance(format, GGUFFormat) else columns
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows))
    return Grid(format, MinMax()).nearest(weight, None)


def layers(weight, dtype=torch.float32):
    bias = torch.randn(weight.shape[0], generator=torch.Generator().manual_seed(1)).to(dtype)
    return QuantLinear(weight, bias, dtype=dtype), PackedLinear(weight, bias)


@pytest.mark.parametrize("name", FORMATS)
def test_packed_weights_are_those_of_fake_quantization_to_the_last_bit(name):
    fake, packed = layers(quantized(FORMATS[name]))
    for dtype in (torch.float32, torch.bfloat16):
        assert torch.equal(dequantize(packed.weight_on_device, dtype).T, fake.weight.to(dtype))
    x = torch.randn(2, 3, fake.in_features)
    # the same products, added in another order
    assert torch.allclose(packed(x), fake(x), atol=1e-4, rtol=1e-5)


def test_columns_whose_groups_lie_scattered_are_gathered():
    stats = SiteStats.empty(96)
    stats.update(torch.randn(300, 96) * torch.exp(torch.randn(96)))
    format = IntFormat(bits=4, group_size=32)
    weight = GPTQ(act_order=True).round(torch.randn(24, 96), Grid(format, MinMax()), stats).weight
    assert weight.group_index is not None
    fake, packed = layers(weight)
    assert torch.equal(dequantize(packed.weight_on_device, torch.float32).T, fake.weight[:, packed.order])
    x = torch.randn(5, 96)
    assert torch.allclose(packed(x), fake(x), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_16_bit_models_multiply_in_16_bits(dtype):
    fake, packed = layers(quantized(INTEGERS["w4-sym-row"]), dtype)
    x = torch.randn(4, 160).to(dtype)
    assert packed(x).dtype == dtype
    assert torch.allclose(packed(x).float(), fake(x).float(), atol=0.1, rtol=2 * torch.finfo(dtype).eps)


@pytest.mark.parametrize(("name", "bits"), [("w3-ragged", 3), ("w4-sym-row", 4), ("w8-g16-fp32", 8)])
def test_codes_take_as_many_bits_as_they_say(name, bits):
    packed = layers(quantized(INTEGERS[name], rows=64, columns=160))[1].weight_on_device
    assert sum(8 * plane.numel() * 4 for plane in packed.planes) == 64 * 160 * bits


def test_the_operator_is_one_that_torch_compiles():
    for name in ("w3-ragged", "w4-sym-row", "nf4", "lut", "q4_k"):
        packed = layers(quantized(FORMATS[name]))[1]
        weight = packed.weight_on_device
        zero = weight.zero if isinstance(weight.zero, torch.Tensor) else None
        constant = 0.0 if zero is not None else weight.zero
        numbers = (packed.in_features, weight.bits, weight.group_size, weight.minimum)
        for x in (torch.randn(2, packed.in_features), torch.randn(1, 3, packed.in_features)):
            arguments = (x, weight.planes, weight.scale, zero, constant, weight.table, *numbers)
            torch.library.opcheck(torch.ops.quantbench.packed_linear.default, arguments)
        compiled = torch.compile(packed, backend="aot_eager", fullgraph=True)
        assert torch.equal(compiled(x), packed(x))


@pytest.mark.parametrize(
    ("format", "columns", "message"),
    [
        (Other(), 64, "Other has none; allowed are the package's own formats"),
        (IntFormat(bits=7, group_size=32), 64, "bits=7 has none; allowed are 1, 2, 3, 4, 5, 6, 8"),
        (IntFormat(bits=4, group_size=12), 64, "group_size=12 at bits=4 would share words between groups"),
        (IntBilevel(bits=3, group_size=8), 64, "multiples of 16"),
    ],
)
def test_a_format_without_packed_execution_says_so_in_one_line(format, columns, message):
    with pytest.raises(ValueError, match=r"evaluation\.execution=packed") as error:
        check_packable(format, columns)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["w3-ragged", "w4-real-zero", "w3-bilevel-g32", "nf4", "binary"])
def test_weights_kept_apart_are_added(name):
    weight = torch.randn(40, 160, generator=torch.Generator().manual_seed(0))
    grid = Grid(FORMATS[name], MinMax())
    fake, packed = layers(RTN().round(weight, grid, None, keep=weight.abs() > 1.9).weight)
    check_packed_weights(packed)
    assert torch.allclose(packed.decoded(), fake.weight, atol=1e-6)
    x = torch.randn(2, 3, 160)
    assert torch.allclose(packed(x), fake(x), atol=1e-4, rtol=1e-5)
    apart = (packed(x), x, packed.kept_rows, packed.kept_columns, packed.kept_values)
    torch.library.opcheck(torch.ops.quantbench.add_sparse.default, apart)
    torch.compiler.reset()  # it compiles one forward a few times at most
    assert torch.equal(torch.compile(packed, backend="aot_eager", fullgraph=True)(x), packed(x))
    packed.kept_values[3] += 0.01
    with pytest.raises(QuantizationError, match="are not those that its codes stand for"):
        check_packed_weights(packed)


def test_columns_in_another_order_do_not_move_what_is_kept():
    stats = SiteStats.empty(96)
    stats.update(torch.randn(300, 96) * torch.exp(torch.randn(96)))
    weight, grid = torch.randn(24, 96), Grid(IntFormat(bits=4, group_size=32), MinMax())
    fake, packed = layers(GPTQ(act_order=True).round(weight, grid, stats, keep=weight.abs() > 1.5).weight)
    assert packed.order is not None
    check_packed_weights(packed)
    x = torch.randn(5, 96)
    assert torch.allclose(packed(x), fake(x), atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_a_packed_model_gives_the_logits_of_the_fake_one_and_can_be_undone():
    model, ids = tiny.build("llama"), tiny.token_ids()
    variant = Variant(IntFormat(bits=3, group_size=32), MinMax(), NoTransform(), RTN(), Uniform(), "fp")
    result = quantize(model, find_structure(model), [variant], None, device=torch.device("cpu"))[0]
    before, full_bytes = model(ids).logits, weight_bytes(model)
    undo = apply_result(model, result)
    fake = model(ids).logits
    undo()
    undo = apply_result(model, result, execution="packed")
    assert torch.allclose(model(ids).logits, fake, atol=1e-4)
    linears = sum(weight.codes.numel() for weight in result.weights.values())
    saved = full_bytes - weight_bytes(model)
    assert linears * 4 * 0.8 < saved < linears * 4 * (1 - 3 / 32)
    undo()
    assert torch.equal(model(ids).logits, before)
    assert weight_bytes(model) == full_bytes


def test_a_model_with_a_weight_that_cannot_be_packed_is_left_as_it_was():
    model = tiny.build("llama")
    format = IntFormat(bits=4, group_size=12)
    variant = Variant(format, MinMax(), NoTransform(), RTN(), Uniform(), "fp")
    result = quantize(model, find_structure(model), [variant], None, device=torch.device("cpu"))[0]
    with pytest.raises(QuantizationError, match=r"q_proj: evaluation\.execution=packed: group_size=12"):
        apply_result(model, result, execution="packed")
    assert all(isinstance(model.get_submodule(name), nn.Linear) for name in result.weights)


def test_packed_weights_that_were_damaged_are_noticed():
    layer = layers(quantized(INTEGERS["w3-ragged"]))[1]
    check_packed_weights(layer)
    layer.plane_1[0, 0] ^= 1
    with pytest.raises(QuantizationError, match="are not those that its codes stand for"):
        check_packed_weights(layer)
