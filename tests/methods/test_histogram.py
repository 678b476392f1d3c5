"""The histogram against numpy's, over any cut and order of the data."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantbench.methods.histogram import HALF, Histogram


def counted(*parts):
    histogram = Histogram()
    for part in parts:
        histogram.add(part)
    return histogram


def tokens(seed, rows=40, scale=1.0):
    return torch.randn(rows, 16, generator=torch.Generator().manual_seed(seed)) * scale


@pytest.mark.parametrize("scale", [1e-3, 0.3, 1.0, 700.0])
def test_counts_are_numpys_over_the_smallest_power_of_two_that_holds_all(scale):
    x = tokens(0, scale=scale)
    histogram = counted(x)
    bound = 2.0 ** (np.floor(np.log2(x.abs().max().item())) + 1)
    expected, edges = np.histogram(x.numpy().astype(np.float64), bins=2 * HALF, range=(-bound, bound))
    assert histogram.width == edges[1] - edges[0]
    np.testing.assert_array_equal(histogram.counts, expected)
    assert (histogram.low, histogram.high) == (x.min().item(), x.max().item())


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 99), st.floats(1e-3, 1e3)), min_size=1, max_size=4), st.randoms())
def test_any_order_and_cut_of_the_data_gives_the_same(parts, random):
    batches = [tokens(seed, rows=3, scale=scale) for seed, scale in parts]
    whole = counted(torch.cat(batches))
    random.shuffle(batches)
    for other in (counted(*batches), Histogram.merged([counted(batch) for batch in batches])):
        assert (other.exponent, other.low, other.high) == (whole.exponent, whole.low, whole.high)
        assert torch.equal(other.counts, whole.counts)


def test_tokens_that_are_not_finite_are_left_out():
    x = tokens(1)
    broken = torch.cat([x, x[:2]])
    broken[-1, 3], broken[-2, 5] = float("nan"), float("inf")
    assert torch.equal(counted(broken).counts, counted(x).counts)


def test_nothing_seen_has_no_values():
    histogram = counted(torch.zeros(0, 16))
    assert histogram.total == 0
    assert counted(torch.zeros(2, 16)).total == 32


@pytest.mark.parametrize("tail", [0.0, 0.001, 0.05])
def test_quantiles_are_those_of_the_values_to_the_width_of_a_bin(tail):
    x = tokens(2, rows=500)
    histogram = counted(x)
    low, high = histogram.quantiles(tail)
    ordered, outside = np.sort(x.numpy(), axis=None), int(tail * x.numel())
    expected = [ordered[outside], ordered[-1 - outside]]
    np.testing.assert_allclose([low, high], expected, atol=1.01 * histogram.width)
    if not tail:
        assert (low, high) == (x.min().item(), x.max().item())


def test_joined_bins_hold_the_same_values():
    histogram = counted(tokens(3, rows=500))
    counts, centres = histogram.bins(2048)
    width = 2 * 2.0**histogram.exponent / 2048
    edges = np.append(centres.numpy() - width / 2, centres[-1].item() + width / 2)
    np.testing.assert_array_equal(counts, np.histogram(tokens(3, rows=500).numpy(), edges)[0])
    assert counts[0] > 0 < counts[-1]
