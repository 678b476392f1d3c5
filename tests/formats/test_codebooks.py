"""Codebooks against the published tables and the definitions behind them."""

from statistics import NormalDist

import pytest
import torch

from quantbench.formats import Codebook
from quantbench.formats.tables import af4, e2m1, nf4, normal_quantile
from quantbench.methods.grid import Grid
from quantbench.methods.range import MinMax

# QLoRA (arXiv 2305.14314), appendix E
NF4 = """-1.0 -0.6961928009986877 -0.5250730514526367 -0.39491748809814453 -0.28444138169288635 -0.18477343022823334
-0.09105003625154495 0.0 0.07958029955625534 0.16093020141124725 0.24611230194568634 0.33791524171829224
0.44070982933044434 0.5626170039176941 0.7229568362236023 1.0"""
# Yoshida (arXiv 2306.06965), the code for blocks of 64
AF4 = """-1.0 -0.69441008 -0.51243739 -0.3736951 -0.25607552 -0.14982478 -0.04934812 0.0
0.04273164 0.12934483 0.21961274 0.31675666 0.42563882 0.55496234 0.72424863 1.0"""


def published(text: str) -> torch.Tensor:
    return torch.tensor([float(number) for number in text.split()])


def test_nf4_is_the_published_table_to_the_last_bit():
    assert torch.equal(nf4(), published(NF4))


def test_af4_is_the_published_table():
    torch.testing.assert_close(af4(64), published(AF4), rtol=0, atol=1e-6)


def test_af4_values_are_the_medians_of_sampled_weights_between_their_borders():
    block = 128
    weight = torch.randn(2**15, block, generator=torch.Generator().manual_seed(0))
    magnitudes = (weight / weight.abs().amax(1, keepdim=True)).abs().flatten()
    code = af4(block)
    for side in (code[code > 0], -code[code < 0].flip(0)):
        borders = torch.cat([torch.zeros(1), (side[1:] + side[:-1]) / 2])
        for low, high, value in zip(borders[:-1], borders[1:], side[:-1], strict=True):
            inside = magnitudes[(magnitudes > low) & (magnitudes < high)]
            assert float(inside.median()) == pytest.approx(float(value), abs=2e-3)


def test_af4_of_a_larger_block_lies_closer_to_zero():
    inner = slice(1, 7)
    assert (af4(256)[inner].abs() < af4(64)[inner].abs()).all()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_normal_quantiles_have_equal_probability_between_them(bits):
    values, normal = normal_quantile(bits), NormalDist()
    top = normal.inv_cdf(1 - 0.5 / 2**bits)
    probability = torch.tensor([normal.cdf(float(v) * top) for v in values])
    torch.testing.assert_close(probability.diff(), torch.full((2**bits - 1,), 2.0**-bits), rtol=1e-4, atol=1e-6)
    assert 0 not in values


def test_e2m1_is_the_table_of_the_microscaling_standard():
    magnitudes = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    assert torch.equal(e2m1(), torch.cat([magnitudes, -magnitudes]))


@pytest.mark.parametrize(
    ("fields", "bits_per_weight"),
    [
        ({"group_size": 64}, 4.5),
        ({"group_size": 64, "scale_dtype": "float16"}, 4.25),
        ({"group_size": 64, "double_quant": True}, 4 + 8 / 64 + 32 / (64 * 256) + 32 / (256 * 1024)),
        ({"per_tensor": True}, 4 + 32 / (256 * 1024)),
        ({"group_size": 64, "code": "normal_quantile", "bits": 3}, 3.5),
    ],
    ids=["fp32-scales", "fp16-scales", "double-quantized", "per-tensor", "three-bits"],
)
def test_bits_per_weight(fields, bits_per_weight):
    quantized = Grid(Codebook(**fields), MinMax()).nearest(torch.randn(256, 1024), None)
    assert quantized.bits_per_weight == bits_per_weight


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"code": "nf5"}, "format.code=nf5: allowed are nf4"),
        ({"bits": 8}, "bits=8: nf4 stores 4 bits; allowed is 4"),
        ({"code": "normal_quantile", "bits": 1}, "bits=1: allowed for normal_quantile are 2 to 8"),
        ({"scale_dtype": "int8"}, "format.scale_dtype=int8: allowed are float16"),
        ({"double_quant": True, "per_tensor": True}, "allowed only with format.double_quant=false"),
        ({"double_quant": True, "scale_dtype": "float16"}, "format.scale_dtype=float16: double quantization"),
    ],
)
def test_out_of_range_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        Codebook(**fields)
