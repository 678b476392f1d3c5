"""Look-up tables: codes are the nearest entries, bytes are what they claim, unpacking gives the same values."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quantbench.formats import LUT, QuantizedWeight, Settled
from quantbench.methods.grid import Grid
from quantbench.methods.range import KMeans

finite = st.floats(-1e4, 1e4, width=32)


@st.composite
def cases(draw):
    """A matrix, a table for each row and group, and the format."""
    bits, group_size = draw(st.sampled_from([2, 3, 4, 8])), draw(st.sampled_from([None, 4, 5]))
    rows, columns = draw(st.integers(1, 3)), draw(st.integers(1, 11))
    format = LUT(bits=bits, group_size=group_size)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    scale = 10.0 ** draw(st.integers(-8, 3))
    groups = len(format.group_slices(columns))
    table = (scale * torch.randn(rows, groups, format.entries, generator=generator)).sort(-1).values
    weight = torch.tensor(draw(st.lists(finite, min_size=rows * columns, max_size=rows * columns)))
    return format, table, weight.view(rows, columns)


@given(cases())
def test_every_weight_gets_the_nearest_entry_of_its_own_table(case):
    format, table, weight = case
    params = format.table_params(table)
    values = Grid(format, KMeans()).encode(weight, Settled(params)).dequantize()
    group_of = torch.arange(weight.shape[1]) // (format.group_size or weight.shape[1])
    distance = (weight[..., None] - table.half().float()[:, group_of]).abs()
    assert torch.equal((weight - values).abs(), distance.amin(-1))


@given(cases())
def test_one_column_at_a_time_gives_the_codes_of_the_whole(case):
    format, table, weight = case
    params = format.table_params(table)
    whole = Grid(format, KMeans()).encode(weight, Settled(params))
    for column, group in enumerate(whole.column_groups().tolist()):
        codes = format.encode(weight[:, column], params.at(group))
        assert torch.equal(codes, whole.codes[:, column].float())
        assert torch.equal(format.decode(codes, params.at(group)), whole.dequantize()[:, column])


@given(cases())
def test_bytes_are_those_counted_and_unpack_to_the_same_values(case):
    format, table, weight = case
    quantized = Grid(format, KMeans()).encode(weight, Settled(format.table_params(table)))
    packed = quantized.pack()
    rows, columns = weight.shape
    groups = table.shape[1]
    assert packed.nbytes == quantized.nbytes == rows * (-(-columns * format.bits // 8) + 2 * groups * 2**format.bits)
    restored = QuantizedWeight.unpack(packed, format=format)
    assert torch.equal(restored.codes, quantized.codes)
    assert torch.equal(restored.dequantize(), quantized.dequantize())


@given(cases())
def test_rounding_what_was_rounded_changes_nothing(case):
    format, table, weight = case
    grid, settled = Grid(format, KMeans()), Settled(format.table_params(table))
    once = grid.encode(weight, settled).dequantize()
    assert torch.equal(grid.encode(once, settled).dequantize(), once)


def test_squeezellms_four_bit_table_a_row_costs_what_its_bytes_say():
    quantized = Grid(LUT(bits=4, group_size=-1), KMeans(weighting="uniform")).nearest(torch.randn(8, 4096), None)
    assert quantized.bits_per_weight == 4 + 16 * 16 / 4096


@pytest.mark.parametrize("options", [{"bits": 1}, {"bits": 9}, {"per_tensor": True}])
def test_impossible_tables_are_refused(options):
    with pytest.raises(ValueError, match="allowed for look-up tables"):
        LUT(**options)
