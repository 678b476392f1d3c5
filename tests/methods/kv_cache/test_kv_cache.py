"""What a cache stores: against numpy's arithmetic, hardware number types, and the bytes that it packs into."""

import numpy as np
import pytest
import torch

from quantbench.methods.kv_cache import KIVI, PerToken, rotated

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(2, 3, 40, 16, generator=GENERATOR) + 4 * (torch.arange(16) == 5)


def test_a_token_of_a_head_is_quantized_by_itself():
    cache = PerToken(bits=4, group_size=8)
    whole = cache.keys(X)
    for token in (0, 17, 39):
        assert torch.equal(cache.keys(X[:1, 1:2, token : token + 1]), whole[:1, 1:2, token : token + 1])
    assert torch.equal(cache.values(X), whole)


def test_kivi_stores_keys_by_channel_over_groups_of_tokens():
    cache = KIVI(bits=2, group_size=8, residual_length=16)
    found = cache.keys(X).double().numpy()
    x = X.double().numpy()
    for start in range(0, 32, 8):
        group = x[:, :, start : start + 8]
        low, high = group.min(2, keepdims=True), group.max(2, keepdims=True)
        scale = (high - low) / 3
        stored, near = found[:, :, start : start + 8], 3e-3 * np.abs(group).max()  # scale and zero-point are float16
        levels = np.stack([low + code * scale for code in range(4)])
        assert np.abs(stored - levels).min(0).max() < near
        assert (np.abs(stored - group) - np.abs(group - levels).min(0)).max() < near
    assert np.array_equal(found[:, :, 32:], x[:, :, 32:]), "a chunk that is not complete is not stored yet"


def test_the_range_of_a_key_channel_need_not_hold_zero():
    x = 100 + torch.rand(1, 1, 32, 4, generator=GENERATOR)
    assert (KIVI(bits=2).keys(x) == x).all(), "not complete"
    stored = KIVI(bits=4, residual_length=32).keys(x)
    assert (stored - x).abs().max() < 0.6 / 15 + 100 * 2**-11
    assert (PerToken(bits=4).by_channel(x) - x).abs().max() > 0.5


@pytest.mark.parametrize("value", [0.0, 5.0, -3e4, 1e-6])
def test_a_channel_that_does_not_change_is_stored_as_it_is(value):
    x = torch.full((1, 1, 32, 2), value)
    for bits in (2, 4, 8):
        found = KIVI(bits=bits, residual_length=32).keys(x)
        assert (found - x).abs().max() <= max(2**-9 * abs(value), 1e-6)


def test_fp8_is_the_hardware_type_under_a_float16_scale():
    scale = (X.abs().amax(-1, keepdim=True) / 448).half().float()
    expected = (X * scale.reciprocal()).to(torch.float8_e4m3fn).float() * scale
    assert torch.equal(PerToken(number="e4m3").keys(X), expected)


def test_keys_leave_the_window_in_chunks_and_values_one_by_one():
    length = torch.arange(1, 12)
    kivi = KIVI(group_size=2, residual_length=4)
    assert kivi.stored_keys(length).tolist() == [0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8]
    assert kivi.stored_values(length).tolist() == [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7]
    assert PerToken(residual_length=3).stored_keys(length).tolist() == [0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert PerToken().stored_keys(length).tolist() == length.tolist()


@pytest.mark.parametrize("width", [12, 16, 20, 64])
def test_rotated_queries_and_keys_have_the_same_scores(width):
    q, k = torch.randn(2, 5, width, generator=GENERATOR, dtype=torch.float64)
    torch.testing.assert_close(rotated(q) @ rotated(k).T, q @ k.T)
    torch.testing.assert_close(rotated(rotated(k), back=True), k)
    outlier = torch.zeros(1, width)
    outlier[0, 0] = 1
    torch.testing.assert_close(rotated(outlier).abs(), torch.full((1, width), width**-0.5)), "spread evenly"


@pytest.mark.parametrize(
    ("cache", "tokens", "width", "bits"),
    [
        (PerToken(bits=8), 100, 64, 8 + 24 / 64),  # a scale of 16 bits and a zero-point of 8
        (PerToken(bits=8, symmetric=True), 100, 64, 8 + 16 / 64),
        (PerToken(bits=4, group_size=32), 100, 64, 4 + (2 * 16 + 2 * 4) / 64),
        (PerToken(number="e4m3"), 100, 128, 8 + 16 / 128),
        (PerToken(bits=4, number="mxfp4"), 100, 128, 4 + 8 / 32),
        (PerToken(bits=8, symmetric=True, residual_length=50), 200, 64, (16 + 3 * (8 + 16 / 64)) / 4),
        (KIVI(bits=2), 2048, 64, (3 + 3 + (16 - 3) * 128 / 2048) / 2),  # 32 bits for 32 elements beside the codes
        (KIVI(bits=2), 100, 64, 16),
    ],
)
def test_every_stored_bit_is_counted(cache, tokens, width, bits):
    assert cache.bits_per_element(tokens, width, full=16) == pytest.approx(bits)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PerToken(bits=9), r"kv_cache\.bits=9: allowed for integers are 2 to 8"),
        (lambda: PerToken(number="int4"), r"kv_cache\.number=int4: allowed are int, e4m3"),
        (lambda: PerToken(clip=0), r"kv_cache\.clip=0: allowed are values above 0"),
        (lambda: PerToken(residual_length=-1), r"residual_length=-1: allowed are 0 and more"),
        (lambda: PerToken(real_zero_point=True, symmetric=True), "allowed only with number=int and symmetric=false"),
        (lambda: PerToken(number="e4m3", bits=4), r"kv_cache\.bits=4: fp8 stores 8 bits"),
        (
            lambda: KIVI(group_size=48),
            r"residual_length=128: allowed for KIVI are multiples of kv_cache\.group_size=48",
        ),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_head_that_no_hadamard_matrix_fits_is_refused():
    with pytest.raises(ValueError, match=r"kv_cache\.rotate=true: no Hadamard matrix of order 6"):
        PerToken(rotate=True).check_width(6)
    PerToken().check_width(6)
