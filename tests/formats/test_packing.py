"""Packing against Python's big integers: the bytes of a row are the base-2^bits number whose digits are the codes."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from quantbench.formats import pack_bits, unpack_bits
from quantbench.formats.packing import packed_bytes


@st.composite
def codes(draw):
    bits = draw(st.integers(1, 8))
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 41))
    values = draw(st.lists(st.integers(0, 2**bits - 1), min_size=rows * columns, max_size=rows * columns))
    return bits, torch.tensor(values, dtype=torch.uint8).view(rows, columns)


@given(codes())
@settings(max_examples=200, deadline=None)
def test_packed_row_is_the_codes_as_one_little_endian_number(case):
    bits, matrix = case
    packed = pack_bits(matrix, bits)
    for row, bytes_ in zip(matrix.tolist(), packed.tolist(), strict=True):
        number = sum(code << (bits * i) for i, code in enumerate(row))
        assert bytes(bytes_) == number.to_bytes(packed_bytes(len(row), bits), "little")


@given(codes())
@settings(max_examples=200, deadline=None)
def test_unpack_inverts_pack(case):
    bits, matrix = case
    assert torch.equal(unpack_bits(pack_bits(matrix, bits), bits, matrix.shape[1]), matrix)


def test_a_code_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="do not fit 3 bits"):
        pack_bits(torch.tensor([[8]]), 3)
