"""GGUF formats: gguf-py's dequantization of the very bytes is the witness, for every type."""

import gguf
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from quantbench.formats import PackedWeight, QuantizedWeight
from quantbench.formats import gguf as formats
from quantbench.formats.gguf import GGUFFormat, ggml_blocks
from quantbench.methods.grid import Grid
from quantbench.methods.range import MinMax
from quantbench.methods.rounding import KQuants

TYPES = [getattr(formats, name) for name in formats.__all__ if name.startswith(("Q", "TQ"))]
ROUNDINGS = {
    "nearest": lambda weight, grid: grid.nearest(weight, None),
    "kquants": lambda weight, grid: KQuants().round(weight, grid, None).weight,
}
BLOCKS = {
    "random": lambda block: block,
    "zero": torch.zeros_like,
    "constant": lambda block: torch.full_like(block, 0.3),
    "negative": lambda block: -block.abs() - 1,
    "outlier": lambda block: torch.where(torch.arange(len(block)) == 77, 4e4, block),
    "tiny": lambda block: block * 2.0**-22,
    "denormal": lambda block: block * 2.0**-140,
    "one": lambda block: torch.where(torch.arange(len(block)) == 5, block, 0.0),
}
WEIGHTS = st.builds(
    lambda seed, kinds: torch.cat([BLOCKS[kind](b) for kind, b in zip(kinds, _normal(seed, len(kinds)), strict=True)]),
    st.integers(0, 2**32 - 1),
    st.lists(st.sampled_from(sorted(BLOCKS)), min_size=2, max_size=6),
).map(lambda flat: flat.view(2, -1) if len(flat) % 512 == 0 else flat[None])


def _normal(seed: int, count: int) -> torch.Tensor:
    return torch.randn(count, 256, generator=torch.Generator().manual_seed(seed))


def kind_of(format: GGUFFormat) -> gguf.GGMLQuantizationType:
    return gguf.GGMLQuantizationType[type(format).__name__]


def assert_same_floats(ours: torch.Tensor, theirs: np.ndarray) -> None:
    np.testing.assert_array_equal(ours.numpy().view(np.uint32), theirs.view(np.uint32))


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("type_", TYPES)
@given(weight=WEIGHTS)
@settings(max_examples=25, deadline=None)
def test_gguf_py_reads_our_blocks_as_we_do_and_they_are_the_bytes_claimed(type_, rounding, weight):
    quantized = ROUNDINGS[rounding](weight, Grid(type_(), MinMax()))
    blocks = ggml_blocks(quantized)
    assert_same_floats(quantized.dequantize(), gguf.dequantize(blocks.numpy(), kind_of(quantized.format)))
    packed = quantized.pack()
    assert packed.nbytes == quantized.nbytes == blocks.numel()
    restored = QuantizedWeight.unpack(packed, format=quantized.format)
    assert torch.equal(restored.codes, quantized.codes)
    assert torch.equal(restored.dequantize(), quantized.dequantize())


@pytest.mark.parametrize("type_", TYPES)
def test_any_bytes_mean_what_gguf_py_says(type_):
    format, generator = type_(), np.random.default_rng(0)
    weights, size = gguf.GGML_QUANT_SIZES[kind_of(format)]
    assert (weights, size) == (format.block, format.code_bytes(format.block) + _level_bytes(format))
    blocks = generator.integers(0, 256, (3, 4, size), dtype=np.uint8)
    example = Grid(format, MinMax()).nearest(torch.zeros(3, 4 * weights), None).pack().tensors
    stored, start = {}, 0
    for name in format.order:
        width = example[name].view(torch.uint8).numel() // 12
        part = blocks[:, :, start : start + width]
        if example[name].dtype == torch.float16:
            part[:, :, 1] &= 0xBF  # neither infinite nor NaN
        stored[name] = torch.from_numpy(part.reshape(3, -1).copy()).view(example[name].dtype)
        start += width
    quantized = QuantizedWeight.unpack(PackedWeight((3, 4 * weights), stored), format=format)
    assert_same_floats(quantized.dequantize(), gguf.dequantize(blocks.reshape(3, -1), kind_of(format)))
    if type_.__name__ != "TQ1_0":  # many bytes of which mean the same digits
        assert torch.equal(ggml_blocks(quantized), torch.from_numpy(blocks.reshape(3, -1)))


def _level_bytes(format: GGUFFormat) -> int:
    stored = Grid(format, MinMax()).nearest(torch.zeros(1, format.block), None).pack().tensors
    return sum(t.view(torch.uint8).numel() for name, t in stored.items() if name != "codes")


@pytest.mark.parametrize("type_", TYPES)
@given(weight=WEIGHTS)
@settings(max_examples=25, deadline=None)
def test_nearest_is_within_half_a_step_inside_the_range_and_idempotent(type_, weight):
    quantized = Grid(type_(), MinMax()).nearest(weight, None)
    groups = quantized.column_groups()
    params = quantized.params.map(lambda t: t[:, groups])
    ends = [quantized.format.decode(torch.full_like(weight, c), params) for c in quantized.format.code_range]
    low, high = torch.minimum(*ends), torch.maximum(*ends)
    error = (quantized.dequantize() - weight.clamp(low, high)).abs().double()
    assert (error <= params.scale.abs().double() * 0.5001 + 2.0**-22 * params.zero_point.abs()).all()
    again = quantized.format.encode(quantized.dequantize(), params)
    distinct = ends[0] != ends[1]
    assert torch.equal(again.to(torch.uint8)[distinct], quantized.codes[distinct])


@pytest.mark.parametrize("type_", TYPES)
def test_unsettled_parameters_cover_the_range_they_are_given(type_):
    weight = torch.randn(64, type_.group_size, generator=torch.Generator().manual_seed(1))
    format, (low, high) = type_(), weight.aminmax(dim=1, keepdim=True)
    params = format.params(low.clamp(max=0), high.clamp(min=0))
    value = format.decode(format.encode(weight, params), params)
    assert ((value - weight).abs() <= params.scale.abs() * 0.5001).all()


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (512, dict(zip(TYPES, TYPES, strict=True))),
        (
            576,
            {
                formats.Q2_K: formats.Q4_0,
                formats.Q3_K: formats.Q4_0,
                formats.TQ1_0: formats.Q4_0,
                formats.TQ2_0: formats.Q4_0,
                formats.Q4_K: formats.Q5_0,
                formats.Q5_K: formats.Q5_1,
                formats.Q6_K: formats.Q8_0,
                formats.Q4_0: formats.Q4_0,
            },
        ),
    ],
)
def test_rows_that_a_block_does_not_divide_get_llama_cpps_fallback(columns, expected):
    for asked, given_ in expected.items():
        assert type(asked().for_shape(8, columns)) is given_


@pytest.mark.parametrize("type_", TYPES)
def test_rows_that_no_block_divides_are_refused_in_one_line(type_):
    with pytest.raises(ValueError, match=r"100 input channels are no multiple of 32.*allocation\.skip") as caught:
        type_().for_shape(8, 100)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{"bits": 3}, {"group_size": 128}, {"group_size": None}])
def test_widths_that_the_type_does_not_have_are_refused(change):
    with pytest.raises(ValueError, match="allowed for Q4_K are bits=4, group_size=32"):
        formats.Q4_K(**change)


def test_what_ggml_has_no_place_for_is_refused():
    quantized = Grid(formats.Q4_0(), MinMax()).nearest(torch.ones(1, 32), None)
    permuted = QuantizedWeight(
        quantized.format, quantized.codes, quantized.params, quantized.levels, group_index=torch.zeros(32).long()
    )
    with pytest.raises(ValueError, match="without outliers or permuted groups"):
        ggml_blocks(permuted)
