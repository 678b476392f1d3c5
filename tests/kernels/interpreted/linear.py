"""Multiplication with packed matrices: every kernel against the torch reference, and against W as it was."""

import pytest
import torch

from quantbench.formats import FP8, LUT, MXFP4, Binary, IntFormat, Ternary
from quantbench.formats.gguf import Q4_1, Q5_0
from quantbench.formats.tables import code_table
from quantbench.kernels.layout import DeviceWeight, pack_words
from quantbench.kernels.linear import reference, triton
from quantbench.methods.grid import Grid
from quantbench.methods.range import MinMax
from quantbench.methods.rounding import GPTQ
from quantbench.methods.stats import SiteStats

WIDTHS = [1, 2, 3, 4, 5, 6, 8]


def packed(bits, rows, columns, group_size, *, zeros=True, table=False):
    generator = torch.Generator().manual_seed(bits * rows)
    codes = torch.randint(2**bits, (rows, columns), generator=generator)
    groups = -(-columns // group_size)
    zero = torch.randint(2**bits, (groups, rows), generator=generator).to(torch.uint8)
    return DeviceWeight(
        shape=(rows, columns),
        bits=bits,
        group_size=group_size,
        planes=pack_words(codes, bits),
        scale=(torch.rand(groups, rows, generator=generator) + 0.1).to(torch.float16),
        zero=0.0 if table else zero if zeros else 2.0 ** (bits - 1),
        table=torch.randn(2**bits, generator=generator) if table else None,
    )


CASES = [packed(bits, 70, 136 if bits == 4 else 160, 32) for bits in WIDTHS]
CASES += [packed(4, 32, 128, 1000, zeros=False), packed(4, 70, 96, 32, table=True), packed(8, 33, 64, 16, table=True)]


@pytest.mark.parametrize(
    "weight", CASES, ids=lambda w: f"w{w.bits}-{w.shape}-{'table' if w.table is not None else w.group_size}"
)
def test_decoded_weights_are_those_of_the_reference(weight, poisoned):
    for dtype in (torch.float32, torch.float16):
        assert torch.equal(triton.dequantize(weight, dtype), reference.dequantize(weight, dtype))


@pytest.mark.parametrize(("m", "dtype"), [(1, torch.float16), (3, torch.float16), (20, torch.float32)], ids=str)
@pytest.mark.parametrize("weight", CASES[2:4] + CASES[6:9], ids=lambda w: f"w{w.bits}-{w.shape}")
def test_product_is_that_of_float64(weight, m, dtype, poisoned):
    x = torch.randn(m, weight.shape[1], generator=torch.Generator().manual_seed(m)).to(dtype)
    product = triton.packed_linear(x, weight)
    matrix = reference.dequantize(weight, torch.float32 if m == 1 else dtype).double()
    exact = x.double() @ matrix
    rounding = torch.finfo(dtype).eps * exact.abs() + 1e-5 * (x.double().abs() @ matrix.abs())
    assert bool(((product.double() - exact).abs() <= rounding).all())
    assert torch.equal(product, triton.packed_linear(x, weight))


def test_many_rows_are_multiplied_with_the_decoded_matrix():
    weight, x = CASES[3], torch.randn(triton.MOST_ROWS + 1, 136)
    assert torch.equal(triton.packed_linear(x, weight), x @ reference.dequantize(weight, torch.float32))


def test_words_hold_what_integers_of_a_format_decode_to():
    from quantbench.kernels import rtn

    format = IntFormat(bits=3, group_size=32)
    weight = torch.randn(16, 96, generator=torch.Generator().manual_seed(0))
    codes, params = rtn.quantize(weight, format)
    expected = params.by_column(format.decode, codes.float(), torch.arange(96) // 32)
    assert torch.equal(triton.dequantize(rtn.quantize_packed(weight, format), torch.float32), expected.T)


def test_table_is_looked_up_by_code():
    nf4 = code_table("nf4", torch.device("cpu")).values
    codes = torch.arange(16).expand(4, 16)
    weight = DeviceWeight((4, 16), 4, 16, pack_words(codes, 4), torch.full((1, 4), 2.0), 0.0, nf4)
    assert torch.equal(triton.dequantize(weight, torch.float32)[:, 0], 2 * nf4)


LAYERS = {
    "w4": IntFormat(bits=4, group_size=32),
    "w3-ragged": IntFormat(bits=3, group_size=64),
    "w2-row": IntFormat(bits=2, group_size=None),
    "w4-real-zero": IntFormat(bits=4, group_size=32, zero_point_dtype="float16"),
    "w5-tensor": IntFormat(bits=5, per_tensor=True),
    "ternary": Ternary(group_size=None, per_tensor=True),
    "binary": Binary(group_size=96),
    "mxfp4": MXFP4(),
    "e5m2": FP8(element="e5m2"),
    "lut-row": LUT(bits=4, group_size=None),
    "lut-g32": LUT(bits=3, group_size=32),
    "q4_1": Q4_1(),
    "q5_0": Q5_0(),
    "w3-g16": IntFormat(bits=3, group_size=16),
}


def layer(name, bias=None):
    from quantbench.models.packed import PackedLinear

    weight = torch.randn(24, 96, generator=torch.Generator().manual_seed(0))
    return PackedLinear(Grid(LAYERS[name], MinMax()).nearest(weight, None), bias)


@pytest.mark.parametrize("m", [1, 5])
@pytest.mark.parametrize("name", LAYERS)
def test_a_packed_layer_is_multiplied_by_the_kernel(name, m, poisoned):
    bias = torch.randn(24)
    packed, x = layer(name, bias), torch.randn(2 if m > 1 else 1, m, 96)
    product = triton.packed_linear(x.view(-1, 96), packed.weight_on_device).view(*x.shape[:2], 24)
    assert torch.equal(packed(x), product + bias)
    assert torch.equal(packed.decoded(), packed.quantized.dequantize())
    assert torch.allclose(product, x @ packed.quantized.dequantize().T, atol=1e-4, rtol=1e-5)


def test_columns_in_the_order_of_their_activity_are_gathered():
    from quantbench.models.packed import PackedLinear

    stats = SiteStats.empty(96)
    stats.update(torch.randn(300, 96) * torch.exp(torch.randn(96)))
    weight = GPTQ(act_order=True).round(torch.randn(24, 96), Grid(LAYERS["w3-ragged"], MinMax()), stats).weight
    assert weight.group_index is not None
    packed, x = PackedLinear(weight, None), torch.randn(3, 96)
    assert torch.equal(packed.decoded(), weight.dequantize())
    assert torch.equal(packed(x), triton.packed_linear(x[:, packed.order], packed.weight_on_device))
    assert torch.allclose(packed(x), x @ weight.dequantize().T, atol=1e-4, rtol=1e-5)
