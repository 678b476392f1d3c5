"""Ternary and binary weights against BitNet's formulas and Python's integers."""

import pytest
import torch

from quantbench.formats import Binary, Codebook, Ternary
from quantbench.formats.packing import pack_trits, unpack_trits
from quantbench.methods.grid import Grid
from quantbench.methods.range import AbsMean, MinMax


def weights(rows: int = 12, columns: int = 203) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)) * 0.02 + 0.003


def test_ternary_is_bitnets_round_clip():
    weight = weights()
    quantized = Grid(Ternary(per_tensor=True), AbsMean()).nearest(weight, None)
    gamma = weight.double().abs().mean()  # the paper's eps, 1e-5 in the authors' code, bounds it from below there
    expected = torch.clip(torch.round(weight / gamma.clamp(min=1e-5)), -1, 1) * gamma
    torch.testing.assert_close(quantized.dequantize(), expected, rtol=1e-6, atol=0)


def test_half_way_between_ternary_values_goes_to_zero_as_pythons_round_does():
    weight = torch.tensor([[0.5, -0.5, 1.0, -1.0, 0.50001]])
    assert Grid(Ternary(), MinMax()).nearest(weight, None).dequantize().tolist() == [[0, 0, 1, -1, 1]]


def test_ternary_of_a_group_uses_the_groups_mean_magnitude():
    weight = weights()
    quantized = Grid(Ternary(group_size=64), AbsMean()).nearest(weight, None)
    expected = torch.stack([weight[:, span].abs().mean(1) for span in quantized.format.group_slices(203)], 1)
    torch.testing.assert_close(quantized.scale, expected)


def test_binary_is_the_sign_times_the_mean_magnitude():
    weight = weights()
    quantized = Grid(Binary(per_tensor=True), AbsMean()).nearest(weight, None)
    torch.testing.assert_close(quantized.dequantize(), weight.sign() * weight.abs().mean())


def test_centered_binary_takes_the_sign_above_the_mean():
    weight = weights()
    quantized = Grid(Binary(per_tensor=True), AbsMean(center=True)).nearest(weight, None)
    torch.testing.assert_close(quantized.dequantize(), (weight - weight.mean()).sign() * weight.abs().mean())


def test_the_mean_magnitude_is_the_best_scale_for_signs():
    weight = weights()
    best, others = ((Grid(Binary(), AbsMean()).nearest(weight, None).dequantize()), (0.9, 1.1))
    error = (best - weight).square().sum()
    assert all((best * factor - weight).square().sum() > error for factor in others)


@pytest.mark.parametrize("columns", [1, 4, 5, 6, 203])
def test_a_byte_of_trits_is_a_number_in_base_three(columns):
    codes = torch.randint(0, 3, (3, columns), generator=torch.Generator().manual_seed(columns), dtype=torch.uint8)
    packed = pack_trits(codes)
    for row, found in zip(codes.tolist(), packed.tolist(), strict=True):
        digits = [row[i : i + 5] for i in range(0, columns, 5)]
        assert found == [int("".join(map(str, reversed(five))), 3) for five in digits]
    assert torch.equal(unpack_trits(packed, columns), codes)


def test_a_code_that_is_not_a_trit_is_refused():
    with pytest.raises(ValueError, match="codes above 2 are not ternary"):
        pack_trits(torch.tensor([[3]]))


@pytest.mark.parametrize(
    ("format", "bits_per_weight"),
    [(Ternary(per_tensor=True), 1.6 + 32 / (64 * 1280)), (Binary(group_size=128), 1.25), (Codebook(), 4.5)],
    ids=["ternary", "binary", "nf4"],
)
def test_bits_per_weight(format, bits_per_weight):
    quantized = Grid(format, AbsMean()).nearest(torch.randn(64, 1280), None)
    assert quantized.bits_per_weight == pytest.approx(bits_per_weight, rel=1e-12)
