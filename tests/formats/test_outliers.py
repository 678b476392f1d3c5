"""Weights kept in 16 bits: the sparse bytes hold exactly what they claim, against scipy's compressed rows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from quantbench.formats import Outliers


@st.composite
def kept(draw):
    rows, columns = draw(st.integers(1, 9)), draw(st.integers(1, 40))
    density = draw(st.sampled_from([0.0, 0.05, 0.5, 1.0]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    weight = torch.randn(rows, columns, generator=generator) * 10.0 ** draw(st.integers(-8, 4))
    return weight, torch.rand(rows, columns, generator=generator) < density


@settings(max_examples=60, deadline=None)
@given(kept())
def test_packed_rows_are_scipys_compressed_rows(problem):
    weight, mask = problem
    stored = Outliers.of(weight, mask).pack()
    reference = csr_array(mask.numpy())
    assert stored["outlier_rows"].tolist() == reference.indptr.tolist()
    assert stored["outlier_columns"].tolist() == reference.indices.tolist()
    assert torch.equal(stored["outlier_values"], weight[mask].half())


@settings(max_examples=60, deadline=None)
@given(kept())
def test_pack_and_unpack_round_trip_in_the_bytes_counted(problem):
    weight, mask = problem
    outliers = Outliers.of(weight, mask)
    stored = outliers.pack()
    again = Outliers.unpack(stored, outliers.shape)
    assert torch.equal(again.index, outliers.index)
    assert torch.equal(again.value, outliers.value)
    assert outliers.nbytes == sum(t.numel() * t.element_size() for t in stored.values())


@settings(max_examples=60, deadline=None)
@given(kept())
def test_kept_entries_replace_the_dense_ones_and_nothing_else_changes(problem):
    weight, mask = problem
    dense = torch.full_like(weight, 7.0)
    assert torch.equal(Outliers.of(weight, mask).put(dense), torch.where(mask, weight.half().float(), dense))


@settings(max_examples=60, deadline=None)
@given(kept(), st.data())
def test_rows_cut_apart_are_those_of_each_part_alone(problem, data):
    weight, mask = problem
    first = data.draw(st.integers(0, len(weight)))
    sizes = [first, len(weight) - first]
    parts = Outliers.of(weight, mask).split_rows(sizes)
    for part, w, m in zip(parts, weight.split(sizes), mask.split(sizes), strict=True):
        alone = Outliers.of(w, m)
        assert part.shape == alone.shape
        assert torch.equal(part.index, alone.index)
        assert torch.equal(part.value, alone.value)


@pytest.mark.parametrize(("columns", "dtype"), [(2**15, torch.int16), (2**15 + 1, torch.int32)])
def test_last_column_is_addressable_in_the_column_dtype(columns, dtype):
    mask = torch.zeros(2, columns, dtype=torch.bool)
    mask[1, -1] = True
    outliers = Outliers.of(torch.ones(2, columns), mask)
    stored = outliers.pack()
    assert stored["outlier_columns"].dtype == dtype
    assert torch.equal(Outliers.unpack(stored, (2, columns)).index, torch.tensor([2 * columns - 1]))


def test_values_beyond_half_precision_become_its_largest():
    weight = torch.tensor([[1e6, -1e6]])
    assert Outliers.of(weight, torch.ones(1, 2, dtype=torch.bool)).value.tolist() == [65504.0, -65504.0]
