"""Round to nearest: the kernel against the torch reference, to the last bit."""

import pytest
import torch

from quantbench.formats import IntFormat
from quantbench.kernels import rtn
from quantbench.kernels.rtn import reference, triton

FORMATS = {
    "w4-g32": IntFormat(bits=4, group_size=32),
    "w4-g48-ragged": IntFormat(bits=4, group_size=48),
    "w2-row-sym": IntFormat(bits=2, group_size=None, symmetric=True),
    "w3-g32": IntFormat(bits=3, group_size=32),
    "w3-g160": IntFormat(bits=3, group_size=160),
    "w8-g64-narrow": IntFormat(bits=8, group_size=64, symmetric=True, narrow_range=True),
    "w5-g64-fp32": IntFormat(bits=5, group_size=64, scale_dtype="float32"),
    "w4-g20-real-zero": IntFormat(bits=4, group_size=20, zero_point_dtype="float16"),
}
SHAPES = [(37, 200), (64, 128)]


def weights(rows, columns):
    generator = torch.Generator().manual_seed(rows)
    weight = torch.randn(rows, columns, generator=generator) * torch.exp(torch.randn(rows, 1, generator=generator))
    weight[0] = 0  # a row without range
    weight[1] = weight[1].abs()  # zero is at its edge
    weight[2, ::3] = 1e-9  # below what a float16 scale resolves
    return weight


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", FORMATS)
def test_codes_and_parameters_are_those_of_the_reference(name, shape, poisoned):
    weight = weights(*shape)
    codes, params = triton.quantize(weight, FORMATS[name])
    expected_codes, expected = reference.quantize(weight, FORMATS[name])
    assert torch.equal(codes, expected_codes)
    assert torch.equal(params.scale, expected.scale)
    assert torch.equal(params.zero_point, expected.zero_point)


@pytest.mark.parametrize("name", ["w4-g32", "w2-row-sym", "w3-g32", "w3-g160", "w8-g64-narrow", "w5-g64-fp32"])
def test_words_are_those_of_the_reference(name, poisoned):
    weight = weights(37, 200)
    packed, expected = rtn.quantize_packed(weight, FORMATS[name]), reference.quantize_packed(weight, FORMATS[name])
    assert packed.tensors.keys() == expected.tensors.keys()
    for key, tensor in expected.tensors.items():
        assert torch.equal(packed.tensors[key], tensor), key
        assert packed.tensors[key].dtype == tensor.dtype
    assert packed.zero == expected.zero if isinstance(expected.zero, float) else True
