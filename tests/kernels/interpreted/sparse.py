"""Multiplication with compressed rows: the kernel against float64, and inside a packed layer."""

import pytest
import torch

from quantbench.formats import IntFormat, Outliers
from quantbench.kernels.sparse import triton
from quantbench.methods.grid import Grid
from quantbench.methods.range import MinMax
from quantbench.methods.rounding import RTN


@pytest.mark.parametrize(("m", "dtype"), [(1, torch.float16), (19, torch.float32)], ids=str)
@pytest.mark.parametrize("density", [0.0, 0.05, 0.6])
def test_product_is_that_of_float64(m, dtype, density, poisoned):
    generator = torch.Generator().manual_seed(m)
    matrix = torch.randn(21, 90, generator=generator)
    matrix *= torch.rand(21, 90, generator=generator) < density
    kept = Outliers.of(matrix, matrix != 0)
    stored = kept.pack()
    x = torch.randn(m, 90, generator=generator).to(dtype)
    product = triton.sparse_linear(x, stored["outlier_rows"], stored["outlier_columns"].int(), kept.value)
    exact = x.double() @ kept.put(torch.zeros(21, 90)).double().T
    assert torch.allclose(product.double(), exact, rtol=1e-5, atol=1e-4)


def test_a_packed_layer_adds_what_was_kept():
    from quantbench.models.packed import PackedLinear

    weight = torch.randn(24, 96, generator=torch.Generator().manual_seed(0))
    keep = weight.abs() > 1.8
    rounded = RTN().round(weight, Grid(IntFormat(bits=3, group_size=32), MinMax()), None, keep=keep).weight
    x = torch.randn(2, 5, 96, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(PackedLinear(rounded, None)(x), x @ rounded.dequantize().T, atol=1e-4, rtol=1e-5)
