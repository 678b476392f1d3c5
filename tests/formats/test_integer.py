"""Integer formats: properties over random tensors, and torch's own quantizer as witness."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from quantbench.formats import GroupParams, IntFormat, QuantizedWeight
from quantbench.methods.grid import Grid
from quantbench.methods.range import MinMax

WEIGHTS = arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(1, 40)),
    elements=st.one_of(
        st.floats(-4, 4, width=32),
        st.just(0.0),
        st.sampled_from([1000.0, -1000.0, 2.0**-130, 2.0**-20]),
    ),
)
FORMATS = st.builds(
    lambda bits, group_size, symmetric, dtype, narrow, zero_point_dtype, per_tensor: IntFormat(
        bits=bits,
        group_size=group_size,
        per_tensor=per_tensor,
        symmetric=symmetric,
        scale_dtype=dtype,
        narrow_range=narrow and symmetric,
        zero_point_dtype="int" if symmetric else zero_point_dtype,
    ),
    st.integers(2, 8),
    st.sampled_from([None, 1, 3, 16]),
    st.booleans(),
    st.sampled_from(["float16", "bfloat16", "float32"]),
    st.booleans(),
    st.sampled_from(["int", "float16", "float32"]),
    st.booleans(),
)


def rtn(weight: torch.Tensor, format: IntFormat) -> QuantizedWeight:
    return Grid(format, MinMax()).nearest(weight, None)


@given(WEIGHTS, FORMATS)
@settings(max_examples=300, deadline=None)
def test_error_is_at_most_half_a_step_or_the_clipped_part(array, format):
    weight = torch.from_numpy(array)
    quantized = rtn(weight, format)
    groups = quantized.column_groups()
    scale, zero = quantized.scale[:, groups].double(), quantized.zero_point[:, groups].double()
    lowest = 1 if format.narrow_range else 0
    low, high = scale * (lowest - zero), scale * (format.max_code - zero)
    value, exact = quantized.dequantize().double(), weight.double()
    inside = exact.clamp(low, high)
    assert ((value - inside).abs() <= scale * 0.5001 + 1e-30).all()
    # an integer zero-point may cut off a step at an end of the range, a scale rounded to 8 or 11 bits (or to float16's
    # smallest spacing, 2^-24) a little of every step
    rounding = torch.maximum(scale * 2.0**-8, torch.tensor(2.0**-25, dtype=torch.float64))
    assert ((inside - exact).abs() <= 1.01 * scale + format.max_code * rounding).all()


@given(WEIGHTS, FORMATS)
@settings(max_examples=200, deadline=None)
def test_pack_unpack_round_trip_and_claimed_bytes(array, format):
    quantized = rtn(torch.from_numpy(array), format)
    packed = quantized.pack()
    restored = QuantizedWeight.unpack(packed, format=format)
    assert torch.equal(restored.codes, quantized.codes)
    assert torch.equal(restored.dequantize(), quantized.dequantize())
    assert packed.nbytes == quantized.nbytes
    assert quantized.bits_per_weight == pytest.approx(8 * packed.nbytes / array.size)


@given(WEIGHTS, FORMATS)
@settings(max_examples=200, deadline=None)
def test_codes_of_dequantized_values_are_the_codes(array, format):
    quantized = rtn(torch.from_numpy(array), format)
    groups = quantized.column_groups()
    params = GroupParams(quantized.scale[:, groups], quantized.zero_point[:, groups])
    again = format.encode(quantized.dequantize(), params)
    assert torch.equal(again.to(torch.uint8), quantized.codes)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_rtn_equals_torch_fake_quantize_per_channel(bits, symmetric):
    weight = torch.randn(7, 50, generator=torch.Generator().manual_seed(bits))
    # narrow range: with the full one max|w| lies exactly between two codes, where the two divide differently
    format = IntFormat(bits=bits, group_size=None, symmetric=symmetric, narrow_range=symmetric, scale_dtype="float32")
    quantized = rtn(weight, format)
    scale, zero_point = quantized.scale[:, 0], quantized.zero_point[:, 0].to(torch.int32)
    expected = torch.fake_quantize_per_channel_affine(weight, scale, zero_point, 0, int(symmetric), 2**bits - 1)
    torch.testing.assert_close(quantized.dequantize(), expected, rtol=0, atol=1e-6)


def test_scale_and_zero_point_follow_the_textbook_formulas():
    weight = torch.tensor([[-1.0, 0.5, 2.0]])
    asymmetric = IntFormat(bits=4, symmetric=False, scale_dtype="float32").params(
        weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    )
    assert asymmetric.scale.item() == pytest.approx(3 / 15)
    assert asymmetric.zero_point.item() == 5
    absmax = IntFormat(bits=8, symmetric=True, narrow_range=True, scale_dtype="float32")
    assert absmax.params(-torch.ones(1, 1), 2 * torch.ones(1, 1)).scale.item() == pytest.approx(2 / 127)


@pytest.mark.parametrize(
    ("columns", "group_size", "expected"),
    [(576, 128, 4 + (16 + 4) * 5 / 576), (512, 64, 4 + 20 / 64), (512, None, 4 + 20 / 512)],
    ids=["576-at-128-is-4.5-groups", "g64", "row"],
)
def test_bits_per_weight_counts_scales_and_zero_points(columns, group_size, expected):
    quantized = rtn(torch.randn(8, columns), IntFormat(bits=4, group_size=group_size))
    # zero-points are packed a row at a time, padded to whole bytes
    assert quantized.bits_per_weight == pytest.approx(expected, abs=8 / columns)


def test_a_real_zero_point_takes_its_16_bits_and_fits_both_ends_exactly():
    weight = torch.randn(8, 512, generator=torch.Generator().manual_seed(0))
    quantized = rtn(weight, IntFormat(bits=4, group_size=64, zero_point_dtype="float16"))
    assert quantized.bits_per_weight == 4 + (16 + 16) / 64
    assert quantized.pack().tensors["zero_point"].dtype == torch.float16
    exact = rtn(weight, IntFormat(bits=4, group_size=64, zero_point_dtype="float32", scale_dtype="float32"))
    ends = exact.dequantize().view(8, 8, 64)
    groups = weight.view(8, 8, 64)
    torch.testing.assert_close(ends.amin(2), groups.amin(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(ends.amax(2), groups.amax(2), rtol=0, atol=1e-5)


def test_per_tensor_stores_one_scale_for_the_whole_matrix():
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    quantized = rtn(weight, IntFormat(bits=8, per_tensor=True, symmetric=True, narrow_range=True))
    assert quantized.nbytes == 8 * 64 + 2
    step = weight.abs().max() / 127
    expected = torch.round(weight / step).clamp(-127, 127) * step
    torch.testing.assert_close(quantized.dequantize(), expected, rtol=1e-3, atol=float(step))
    assert len(quantized.scale.unique()) == 1


def test_signed_codes_with_a_shifted_zero_point_are_the_same_grid():
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    quantized = rtn(weight, IntFormat(bits=8, group_size=None, scale_dtype="float32"))
    low, high = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    scale = (high - low) / 255
    zero_point = torch.round(-low / scale) - 128
    codes = (torch.round(weight / scale) + zero_point).clamp(-128, 127)
    torch.testing.assert_close(quantized.dequantize(), (codes - zero_point) * scale, rtol=0, atol=1e-6)


def test_all_zero_group_stays_zero():
    assert rtn(torch.zeros(3, 10), IntFormat(bits=2, group_size=4)).dequantize().abs().max() == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bits": 9}, "bits=9: allowed for integers are 2 to 8"),
        ({"group_size": 0}, "group_size=0: allowed is a positive integer"),
        ({"scale_dtype": "int8"}, "format.scale_dtype=int8: allowed are float16"),
        ({"narrow_range": True}, "allowed only with symmetric=true"),
        ({"zero_point_dtype": "int8"}, "format.zero_point_dtype=int8: allowed are int, float16"),
        ({"zero_point_dtype": "float16", "symmetric": True}, "allowed only with symmetric=false"),
    ],
)
def test_out_of_range_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        IntFormat(**fields)


def test_group_size_minus_one_is_the_whole_row():
    assert IntFormat(group_size=-1).group_size is None
