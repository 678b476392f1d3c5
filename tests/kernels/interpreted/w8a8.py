"""Quantizing tokens and rescaling products of codes: the kernels against torch and the formats, to the last bit."""

import pytest
import torch

from quantbench.formats import FP8, GroupParams, IntFormat
from quantbench.kernels.w8a8 import ByteWeight, quantize_tokens, reference, triton, w8a8_linear

FORMATS = {
    "int8": IntFormat(bits=8, group_size=None, scale_dtype="float32"),
    "int8-sym": IntFormat(bits=8, group_size=None, symmetric=True, scale_dtype="float32"),
    "int8-narrow-fp16": IntFormat(bits=8, group_size=None, symmetric=True, narrow_range=True),
    "int4": IntFormat(bits=4, group_size=None, scale_dtype="float32"),
    "e4m3": FP8(),
}


def tokens(m, k, dtype=torch.float32):
    generator = torch.Generator().manual_seed(k)
    x = torch.randn(m, k, generator=generator) * torch.exp(2 * torch.randn(k, generator=generator))
    x[0] = 0
    x[1] = x[1].abs()
    return x.to(dtype)


@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
@pytest.mark.parametrize(("k", "dtype"), [(48, torch.float32), (4100, torch.float32), (200, torch.float16)], ids=str)
@pytest.mark.parametrize("name", FORMATS)
def test_codes_scales_and_sums_are_those_of_torch(name, k, dtype, static, poisoned):
    format, x = FORMATS[name], tokens(5, k, dtype)
    params = None
    if static:  # a range that does not hold all values
        params = format.params(-torch.arange(5.0), torch.arange(5.0).flip(0))
    width = k + -k % 16
    found, expected = (f.quantize_tokens(x, format, params, 0.9, width) for f in (triton, reference))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8))


def test_every_e4m3_number_and_every_border_between_two_gets_the_code_of_the_format():
    format, every = FP8(), torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    finite = every[every.isfinite()].sort().values
    middles = (finite[1:] + finite[:-1]) / 2
    near = [torch.nextafter(middles, torch.full_like(middles, end)) for end in (-1e9, 1e9)]
    x = torch.cat([finite, middles, *near])[None]
    one = GroupParams(torch.ones(1), torch.zeros(1))
    codes = triton.quantize_tokens(x, format, one, 1.0, x.shape[1])[0].view(torch.uint8)
    expected = format.encode(x, GroupParams(torch.ones(1, 1), torch.zeros(1, 1))).to(torch.uint8)
    assert torch.equal(codes, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_rescaled_products_are_those_of_torch(dtype, poisoned):
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-128, 128, (70, 40), generator=generator).to(torch.int8)
    zero = torch.randint(-128, 128, (70,), generator=generator)
    weight = ByteWeight.of(codes, torch.rand(70, generator=generator) * 0.01, zero)
    found = quantize_tokens(tokens(3, 40), FORMATS["int8"], width=48)
    product = torch._int_mm(found.codes, weight.codes.T)
    arguments = (product, *found[1:], weight, dtype)
    assert torch.equal(triton.rescaled(*arguments), reference.rescaled(*arguments))


def test_the_layer_goes_through_the_kernels(monkeypatch):
    weight = ByteWeight.of(torch.randint(-127, 128, (24, 40)).to(torch.int8), torch.rand(24))
    x, format = tokens(6, 40), FORMATS["int8"]
    ours = w8a8_linear(x.view(2, 3, 40), weight, format)
    called = []
    for name in ("quantize_tokens", "rescaled"):
        kernel = getattr(reference, name)
        monkeypatch.setattr(triton, name, lambda *a, kernel=kernel: called.append(1) or kernel(*a))
    assert torch.equal(ours, w8a8_linear(x, weight, format).view(2, 3, 24))
    assert len(called) == 2
