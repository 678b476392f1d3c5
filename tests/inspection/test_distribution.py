"""Distributions that come in pieces against scipy and numpy on the whole matrix."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kurtosis

from quantbench.inspection.distribution import Distribution


def heavy_tailed(rows=400, channels=48, seed=0):
    """Student's t with 5 degrees of freedom, off centre, with one channel of ten and one of forty times the others."""
    values = np.random.default_rng(seed).standard_t(5, (rows, channels)) + 0.3
    values[:, 7] *= 10
    values[:, 30] *= 40
    return values.astype(np.float32)


def shape(values, *, pieces=1, group_size=None):
    found = Distribution(values.shape[1], group_size)
    for piece in np.array_split(values, pieces):
        found.add(torch.from_numpy(piece))
    return found.shape()


@pytest.mark.parametrize("pieces", [1, 7])
def test_moments_are_those_of_scipy_whatever_the_pieces(pieces):
    values = heavy_tailed()
    found = shape(values, pieces=pieces)
    exact = values.astype(np.float64)
    assert found.kurtosis == pytest.approx(kurtosis(exact, axis=None, fisher=False), rel=1e-9)
    assert found.mean == pytest.approx(exact.mean(), rel=1e-9)
    assert found.rms == pytest.approx(np.sqrt((exact**2).mean()), rel=1e-9)
    assert found.absmax == np.abs(values).max()
    assert (found.rows, found.channels) == values.shape


def test_outlier_channels_are_those_over_the_median_channel():
    values = heavy_tailed()
    found, largest = shape(values, pieces=3), np.abs(values).max(0)
    ratios = largest / np.median(largest)
    assert found.channel_ratio == pytest.approx(ratios.max(), rel=1e-6)
    assert found.channels_over_6 == (ratios > 6).sum() == 2
    assert found.channels_over_20 == (ratios > 20).sum() == 1
    assert found.outlier_channels == [30, 7]
    assert found.outlier_ratios == pytest.approx(ratios[[30, 7]], rel=1e-6)
    rows = np.abs(values).max(1)
    assert found.row_ratio == pytest.approx(rows.max() / np.median(rows), rel=1e-6)


@pytest.mark.parametrize("group_size", [None, 16, 20])
def test_the_histogram_is_numpys_of_values_over_the_largest_of_their_group(group_size):
    values = heavy_tailed()
    size = group_size or values.shape[1]
    parts = [values[:, start : start + size] for start in range(0, values.shape[1], size)]  # 20: the last one is ragged
    scaled = np.concatenate([(part / np.abs(part).max(1, keepdims=True)).ravel() for part in parts])
    counts, _ = np.histogram(scaled, bins=64, range=(-1, 1))
    found = np.array(shape(values, pieces=4, group_size=group_size).histogram)
    assert np.abs(found - counts / values.size).max() < 2 / values.size, "a value on an edge may go either way"
    assert found.sum() == pytest.approx(1)


def test_tokens_with_nan_or_inf_are_left_out():
    values = heavy_tailed()
    broken = values.copy()
    broken[3, 5], broken[100, 0] = np.nan, np.inf
    assert shape(broken) == shape(np.delete(values, [3, 100], axis=0))


def test_a_matrix_of_one_value_or_of_zeros_has_no_kurtosis_and_zeros_no_ratios():
    assert shape(np.full((4, 6), 0.7, np.float32)).kurtosis is None
    zeros = shape(np.zeros((4, 6), np.float32))
    assert (zeros.kurtosis, zeros.channel_ratio, zeros.channels_over_6, zeros.outlier_channels) == (
        None,
        None,
        None,
        [],
    )
    assert Distribution(5).shape().rows == 0


@given(scale=st.floats(1e-3, 1e3), shift=st.floats(-3, 3))
def test_kurtosis_knows_neither_scale_nor_place(scale, shift):
    values = np.random.default_rng(1).standard_t(6, (64, 8))
    moved = (scale * (values + shift)).astype(np.float32)
    assert shape(moved).kurtosis == pytest.approx(shape(values.astype(np.float32)).kurtosis, rel=1e-3)
