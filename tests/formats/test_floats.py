"""Small floats against torch's own dtypes and against an exhaustive search in float64."""

import math

import pytest
import torch

from quantbench.formats import FP8, MXFP4, NVFP4, Codebook
from quantbench.formats.tables import code_table
from quantbench.methods.grid import Grid
from quantbench.methods.range import MinMax

CPU = torch.device("cpu")
DTYPES = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}
E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]


def every_half() -> torch.Tensor:
    """Every finite float16 number but -0, which no weight needs."""
    numbers = torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(torch.float16).float()
    return numbers[torch.isfinite(numbers) & ~((numbers == 0) & torch.signbit(numbers))]


def weights(rows: int = 64, columns: int = 200) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, columns, generator=generator) * torch.randn(rows, 1, generator=generator).exp()


def nearest_even(number: float) -> float:
    """E2M1 by search: the nearest magnitude, of two the one with the even code, beyond the largest the largest."""
    distance = [abs(abs(number) - value) for value in E2M1]
    best = min(range(8), key=lambda code: (distance[code], code % 2))
    return math.copysign(E2M1[best], number)


@pytest.mark.parametrize("element", DTYPES)
def test_fp8_codes_are_the_bits_of_torchs_cast_for_every_half(element):
    table = code_table(element, CPU)
    numbers = every_half().clamp(-table.top, table.top)
    assert torch.equal(table.nearest(numbers).to(torch.uint8), numbers.to(DTYPES[element]).view(torch.uint8))


@pytest.mark.parametrize("element", DTYPES)
@pytest.mark.parametrize("fields", [{}, {"per_tensor": True}, {"group_size": 64}], ids=["channel", "tensor", "group"])
def test_fp8_is_torchs_cast_of_the_scaled_weights(element, fields):
    weight = weights()
    quantized = Grid(FP8(element=element, **fields), MinMax()).nearest(weight, None)
    scale = quantized.scale[:, quantized.column_groups()]
    cast = (weight * (1 / scale)).to(DTYPES[element])
    assert torch.equal(quantized.codes, cast.view(torch.uint8))
    assert torch.equal(quantized.dequantize(), cast.float() * scale)
    assert quantized.codes.max() > 128  # negative numbers among them
    assert float((cast.float().abs() * scale).max()) == pytest.approx(float(weight.abs().max()))


def test_e2m1_is_the_nearest_value_for_every_half():
    numbers = every_half()
    numbers = numbers[numbers.abs() < 16]
    table = code_table("e2m1", CPU)
    expected = torch.tensor([nearest_even(float(number)) for number in numbers])
    assert torch.equal(table.decode(table.nearest(numbers)), expected)


def test_mxfp4_is_the_standards_recipe_in_float64():
    weight = weights(rows=16, columns=80)  # two blocks and a half
    weight[3, :32], weight[4, 32:64], weight[5] = 0, 2.0**-140, weight[5] * 1e37
    quantized = Grid(MXFP4(), MinMax()).nearest(weight, None)
    stored = quantized.pack().tensors["scale"].view(torch.uint8)
    for row in range(16):
        for block, span in enumerate(quantized.format.group_slices(80)):
            largest = float(weight[row, span].abs().max())
            exponent = math.floor(math.log2(largest)) - 2 if largest else -127
            scale = 2.0 ** max(-127, min(127, exponent))
            assert int(stored[row, block]) == math.log2(scale) + 127
            values = [nearest_even(float(w) / scale) * scale for w in weight[row, span]]
            assert quantized.dequantize()[row, span].tolist() == values


def test_nvfp4_has_the_scales_of_torchs_cast_and_the_nearest_values():
    weight = weights(rows=16, columns=56)  # three blocks and a half
    weight[3, :16] = 0
    quantized = Grid(NVFP4(), MinMax()).nearest(weight, None)
    absmax = torch.stack([weight[:, span].abs().amax(1) for span in quantized.format.group_slices(56)], 1)
    tensor_scale = weight.abs().max() / 6 / 448
    cast = (absmax / 6 / tensor_scale).to(torch.float8_e4m3fn)
    stored = quantized.pack().tensors
    assert torch.equal(stored["scale"].view(torch.uint8), cast.view(torch.uint8))
    assert float(stored["tensor_scale"]) == float(tensor_scale)
    scale = (cast.float() * tensor_scale)[:, quantized.column_groups()].double()
    ratio = torch.where(scale > 0, weight / scale, 0)
    expected = torch.tensor([[nearest_even(float(r)) for r in row] for row in ratio]) * scale
    torch.testing.assert_close(quantized.dequantize().double(), expected, rtol=1e-6, atol=0)


def test_a_block_far_below_the_largest_keeps_a_scale():
    weight = torch.cat([torch.full((1, 16), 1e4), torch.full((1, 16), 1e-3)], 1)
    quantized = Grid(NVFP4(), MinMax()).nearest(weight, None)
    assert quantized.pack().tensors["scale"].float().tolist() == [[448, 2.0**-9]]


@pytest.mark.parametrize(
    ("format", "bits_per_weight"),
    [
        (FP8(), 8 + 32 / 1024),
        (FP8(per_tensor=True), 8 + 32 / (256 * 1024)),
        (MXFP4(), 4 + 8 / 32),
        (NVFP4(), 4 + 8 / 16 + 32 / (256 * 1024)),
        (Codebook(code="e2m1", group_size=32), 5),
    ],
    ids=["fp8-channel", "fp8-tensor", "mxfp4", "nvfp4", "e2m1"],
)
def test_bits_per_weight(format, bits_per_weight):
    assert Grid(format, MinMax()).nearest(torch.randn(256, 1024), None).bits_per_weight == bits_per_weight


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FP8(element="e3m4"), "format.element=e3m4: allowed are e4m3, e5m2"),
        (lambda: MXFP4(bits=8), "bits=8: mxfp4 stores 4 bits; allowed is 4"),
        (lambda: NVFP4(scale_dtype="float16"), "format.scale_dtype=float16: nvfp4 stores its own kind of scale"),
    ],
)
def test_out_of_range_fields_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
