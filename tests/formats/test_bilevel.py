"""Two levels of scales: the stored bytes decode to what is scored, and the second level is the nearest it can hold."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantbench.formats import GroupParams, IntBilevel, QuantizedWeight, Settled
from quantbench.methods.grid import Grid
from quantbench.methods.range import MinMax


@st.composite
def problems(draw):
    format = IntBilevel(
        bits=draw(st.integers(2, 8)),
        group_size=draw(st.sampled_from([None, 1, 5, 16])),
        scale_bits=draw(st.integers(1, 8)),
        zero_bits=draw(st.integers(1, 8)),
        second_group_size=draw(st.sampled_from([1, 3, 16])),
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    rows, columns = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    weight = torch.randn(rows, columns, generator=generator) * 10.0 ** draw(st.integers(-7, 3))
    kind = draw(st.sampled_from(["normal", "zero rows", "constant", "outlier", "all zero"]))
    if kind == "zero rows":
        weight[::2] = 0
    elif kind == "constant":
        weight[:] = weight[0, 0]
    elif kind == "outlier":
        weight[0, 0] = 6e4
    elif kind == "all zero":
        weight[:] = 0
    return format, weight


@settings(max_examples=80, deadline=None)
@given(problems())
def test_unpacked_weight_is_the_packed_one_in_the_bytes_counted(problem):
    format, weight = problem
    quantized = Grid(format, MinMax()).nearest(weight, None)
    packed = quantized.pack()
    again = QuantizedWeight.unpack(packed, format=format)
    assert torch.equal(again.dequantize(), quantized.dequantize())
    assert quantized.nbytes == packed.nbytes == again.nbytes
    assert bool(torch.isfinite(quantized.dequantize()).all())


@settings(max_examples=80, deadline=None)
@given(problems())
def test_second_level_is_within_half_a_step_of_the_first(problem):
    format, weight = problem
    groups = [format.params(w.amin(1).clamp(max=0), w.amax(1).clamp(min=0)) for w in weight.split(16, 1)]
    for name, bits in (("scale", format.scale_bits), ("zero_point", format.zero_bits)):
        exact = torch.stack([getattr(p, name) for p in groups], 1)
        params = type(groups[0])(*(torch.stack([getattr(p, n) for p in groups], 1) for n in ("scale", "zero_point")))
        stored = getattr(format.settle(params).params, name)
        for start in range(0, len(weight), format.second_group_size):
            rows = slice(start, start + format.second_group_size)
            low, high = exact[rows].amin(0), exact[rows].amax(0)
            half_step = (high - low) / (2**bits - 1) / 2
            rounding = 2.0**-10 * high.abs() + 2.0**-23 * 2**bits  # minimum and step in float16
            assert ((stored[rows] - exact[rows]).abs() <= half_step + rounding).all()


@settings(max_examples=40, deadline=None)
@given(problems())
def test_groups_settled_one_by_one_are_those_settled_together(problem):
    format, weight = problem
    parts = [Grid(format, MinMax()).fit(weight[:, g], None) for g in format.group_slices(weight.shape[1])]
    together = format.settle(GroupParams.concatenated(parts))
    apart = Settled.concatenated([format.settle(part) for part in parts])
    assert torch.equal(together.params.scale, apart.params.scale)
    assert torch.equal(together.params.zero_point, apart.params.zero_point)
    assert together.levels.keys() == apart.levels.keys()
    assert all(torch.equal(together.levels[name], apart.levels[name]) for name in apart.levels)


def test_bits_are_those_of_the_papers_formula():
    quantized = Grid(IntBilevel(bits=3, group_size=16), MinMax()).nearest(torch.randn(64, 256), None)
    assert quantized.bits_per_weight == 3 + (3 + 3) / 16 + 4 * 16 / (16 * 16)


def test_enough_second_level_bits_leave_one_level():
    """Against asymmetric rounding with real zero-points and exact scales, written out in float64."""
    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    format = IntBilevel(bits=4, group_size=16, scale_bits=8, zero_bits=8, second_group_size=1)
    groups = weight.double().numpy().reshape(32, -1, 16)
    low, high = np.minimum(groups.min(-1, keepdims=True), 0), np.maximum(groups.max(-1, keepdims=True), 0)
    scale = (high - low) / 15
    expected = (np.clip(np.round(groups / scale - low / scale), 0, 15) + low / scale) * scale
    found = Grid(format, MinMax()).nearest(weight, None).dequantize()
    same = (found.double() - torch.from_numpy(expected.reshape(32, 64))).abs() < 1e-2  # float16; a step is 0.3
    assert same.float().mean() > 0.99


@pytest.mark.parametrize(
    "options",
    [{"bits": 1}, {"scale_bits": 0}, {"zero_bits": 9}, {"second_group_size": 0}, {"per_tensor": True}],
)
def test_out_of_range_fields_are_refused(options):
    with pytest.raises(ValueError, match="allowed"):
        IntBilevel(**options)
