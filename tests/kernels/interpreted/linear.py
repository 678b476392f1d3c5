"""Multiplication with packed matrices: every kernel against the torch reference, and against W as it was."""

import pytest
import torch

from quantbench.formats import IntFormat
from quantbench.formats.tables import code_table
from quantbench.kernels.layout import DeviceWeight, pack_words
from quantbench.kernels.linear import reference, triton
from quantbench.methods.grid import Grid
from quantbench.methods.range import MinMax

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


def test_a_packed_layer_is_multiplied_by_the_kernel():
    from quantbench.models.packed import PackedLinear

    format = IntFormat(bits=4, group_size=32)
    layer = PackedLinear(Grid(format, MinMax()).nearest(torch.randn(24, 96), None), torch.randn(24))
    x = torch.randn(2, 5, 96)
    expected = triton.packed_linear(x.view(-1, 96), layer.weight_on_device).view(2, 5, 24) + layer.bias
    assert torch.equal(layer(x), expected)
