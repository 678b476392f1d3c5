"""Dynamic quantization of inputs against integer arithmetic written out in numpy."""

import numpy as np
import pytest
import torch

from quantbench.methods.activation import DynamicActivation

X = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 4, 64)


def quantized(**options):
    return DynamicActivation(**options).quantizer("layers.0.q_proj", "attention_in")(X)


@pytest.mark.parametrize("bits", [8, 4])
def test_int_per_token_is_absmax_over_the_largest_code_of_each_token(bits):
    x, top = X.numpy().astype(np.float32), 2 ** (bits - 1) - 1
    scale = np.abs(x).max(-1, keepdims=True) / np.float32(top)
    codes = np.rint(x / scale)
    assert np.abs(codes).max() == top
    np.testing.assert_allclose(quantized(bits=bits), codes * scale, rtol=1e-6, atol=0)


def test_int_per_tensor_has_one_scale_for_the_tokens_of_a_sequence():
    x = X.numpy()
    scale = np.abs(x).max((1, 2), keepdims=True) / np.float32(127)
    np.testing.assert_allclose(quantized(granularity="tensor"), np.rint(x / scale) * scale, rtol=1e-6, atol=0)


def test_asymmetric_int_covers_the_span_of_each_token_and_zero():
    x = X.relu()
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    result = DynamicActivation(symmetric=False).quantizer("a", "other")(x)
    assert torch.equal(low, torch.zeros_like(low))
    torch.testing.assert_close(result, torch.round(x / (high / 255)) * (high / 255), rtol=1e-6, atol=0)


def test_groups_of_a_token_have_scales_of_their_own():
    grouped = quantized(bits=4, group_size=16)
    parts = [DynamicActivation(bits=4).quantizer("a", "other")(X[..., i : i + 16]) for i in range(0, 64, 16)]
    assert torch.equal(grouped, torch.cat(parts, -1))


def test_a_clipped_range_is_that_share_of_the_maximum():
    largest = X.abs().amax(-1)
    torch.testing.assert_close(quantized(bits=4, clip=0.9).abs().amax(-1), 0.9 * largest)


@pytest.mark.parametrize(
    ("number", "dtype", "top"), [("e4m3", torch.float8_e4m3fn, 448), ("e5m2", torch.float8_e5m2, 57344)]
)
def test_fp8_is_torchs_cast_of_the_scaled_token(number, dtype, top):
    scale = X.abs().amax(-1, keepdim=True) / top
    expected = (X * (1 / scale)).to(dtype).float() * scale
    torch.testing.assert_close(quantized(number=number), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("number", "block"), [("mxfp4", 32), ("nvfp4", 16), ("e2m1", 64)])
def test_four_bit_floats_take_values_of_e2m1_in_each_block(number, block):
    values = quantized(bits=4, number=number).reshape(-1, block)
    magnitudes = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    for row in values:
        units = row.abs().max() / magnitudes[1:]  # the block's largest value is one of these times the scale
        distance = torch.stack([(row.abs() / unit)[:, None].sub(magnitudes).abs().amin(1).max() for unit in units])
        assert distance.min() < 1e-5


@pytest.mark.parametrize("number", ["int", "e4m3", "mxfp4", "nvfp4"])
def test_a_token_is_quantized_alike_whatever_comes_with_it(number):
    bits = 8 if number in ("int", "e4m3") else 4
    quantizer = DynamicActivation(bits=bits, number=number).quantizer("a", "other")
    assert torch.equal(quantizer(X)[1, 3], quantizer(X[1, 3:4])[0])
    assert quantizer(X.bfloat16()).dtype is torch.bfloat16


def test_skipped_linears_keep_their_inputs():
    activation = DynamicActivation(skip=["down_proj", "*.0.*", "attention_out"])
    assert activation.quantizer("layers.1.mlp.down_proj", "mlp_out") is None
    assert activation.quantizer("layers.0.mlp.up_proj", "mlp_in") is None
    assert activation.quantizer("layers.1.attn.o_proj", "attention_out") is None
    assert activation.quantizer("layers.1.mlp.up_proj", "mlp_in") is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"number": "int3"}, "activation.number=int3: allowed are int, e4m3, e5m2, e2m1, mxfp4, nvfp4"),
        ({"number": "e4m3", "bits": 4}, "activation.bits=4: fp8 stores 8 bits; allowed is 8"),
        ({"bits": 9}, "activation.bits=9: allowed for integers are 2 to 8"),
        ({"granularity": "row"}, "activation.granularity=row: allowed are token, tensor"),
        ({"granularity": "tensor", "group_size": 16}, "activation.granularity=tensor: allowed only with one scale"),
        ({"clip": 1.5}, "activation.clip=1.5: allowed are values above 0 and up to 1"),
    ],
)
def test_wrong_settings_are_named(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        DynamicActivation(**options)


@pytest.mark.parametrize("granularity", ["token", "tensor"])
@pytest.mark.parametrize(("bits", "number", "symmetric"), [(8, "int", True), (4, "int", False), (8, "e4m3", True)])
def test_values_are_those_that_the_codes_stand_for(bits, number, symmetric, granularity):
    activation = DynamicActivation(bits=bits, number=number, symmetric=symmetric, granularity=granularity, clip=0.9)
    quantizer = activation.quantizer("a", "other")
    assert torch.equal(quantizer(X), quantizer.quantized(X).dequantize().view(X.shape))
