"""Use of code points against a search through all of them, value by value."""

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from quantbench.formats import FP8, LUT, MXFP4, NVFP4, Codebook, IntBilevel, IntFormat, Ternary
from quantbench.formats.gguf import Q4_0, Q4_K
from quantbench.formats.outliers import Outliers
from quantbench.inspection.codes import CodeCounter
from quantbench.methods.grid import Grid
from quantbench.methods.range import KMeans, MinMax

# what a group's code points are before scaling, from the formats' definitions
E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
FORMATS = {
    "int3-asym": IntFormat(bits=3, group_size=16),
    "int4-sym": IntFormat(bits=4, group_size=32, symmetric=True),
    "int4-narrow": IntFormat(bits=4, group_size=None, symmetric=True, narrow_range=True),
    "int4-float-zero": IntFormat(bits=4, group_size=20, zero_point_dtype="float16"),
    "int8": IntFormat(bits=8, group_size=64),
    "tensor": IntFormat(bits=4, per_tensor=True),
    "nf4": Codebook(bits=4, group_size=32, code="nf4"),
    "fp8": FP8(bits=8, group_size=None),
    "mxfp4": MXFP4(),
    "nvfp4": NVFP4(),
    "ternary": Ternary(group_size=32),
    "lut": LUT(bits=3, group_size=None),
    "bilevel": IntBilevel(bits=3, group_size=16),
    "q4_0": Q4_0(4, 32),
    "q4_k": Q4_K(4, 32),
}


def weights(rows=10, columns=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator) * (0.5 + torch.rand(rows, 1, generator=generator))


def quantized(name, weight):
    format = FORMATS[name]
    range = KMeans() if isinstance(format, LUT) else MinMax()
    return Grid(format, range).nearest(weight, None)


def points_of(weight, row, column):
    """The values that the codes of this weight's group stand for, those that no value is given left out."""
    group = int(weight.column_groups()[column])
    params = weight.params.map(lambda t: t[row : row + 1, group : group + 1])
    codes = torch.arange(2**weight.format.bits).float()[None]
    values = weight.format.decode(codes, params)[0].double().numpy()
    if weight.format == FORMATS["int4-narrow"]:
        values = values[1:]
    return np.unique(values[np.isfinite(values)])


def use(weight, values):
    counter = CodeCounter(weight.format)
    counter.add(values, weight)
    return counter.use()


@pytest.mark.parametrize("name", FORMATS)
def test_distances_ends_and_codes_are_what_a_search_through_the_code_points_finds(name):
    values = weights(columns=256 if name == "q4_k" else 64)
    weight = quantized(name, values)
    stretched = 1.6 * values  # so that some lie beyond the outermost code points
    found = use(weight, stretched)
    squared, distance, clipped, positions = 0.0, 0.0, 0, []
    for (row, column), value in np.ndenumerate(stretched.double().numpy()):
        points = points_of(weight, row, column)
        nearest = np.abs(points - value).min()
        squared += nearest**2
        distance += nearest / (points[-1] - points[0])
        clipped += value < points[0] - (points[1] - points[0]) / 2 or value > points[-1] + (points[-1] - points[-2]) / 2
        positions.append((value - points[0]) / (points[-1] - points[0]))
    count = stretched.numel()
    assert found.nearest_error == pytest.approx(squared / float(stretched.double().square().sum()), rel=2e-3)
    assert found.clipped == pytest.approx(clipped / count, abs=1.5 / count)
    assert found.distance == pytest.approx(distance / count * (len(found.code_points) - 1), rel=2e-3)
    assert found.clipped > 0
    counts, _ = np.histogram(np.clip(positions, -0.25, 1.25), bins=96, range=(-0.25, 1.25))
    assert np.abs(np.array(found.code_histogram) - counts / count).max() <= 3 / count
    assert found.code_counts == np.bincount(weight.codes.flatten(), minlength=2**weight.format.bits).tolist()
    assert found.code_entropy == pytest.approx(entropy(found.code_counts, base=2), rel=1e-9)
    assert found.codes_used == np.count_nonzero(found.code_counts)


def test_code_points_lie_where_the_formats_are_defined():
    values = weights()
    assert use(quantized("int4-sym", values), values).code_points == pytest.approx(np.arange(16) / 15, abs=1e-6)
    assert len(use(quantized("int4-narrow", values), values).code_points) == 15
    assert use(quantized("ternary", values), values).code_points == pytest.approx([0, 0.5, 1])
    symmetric = np.unique([-x for x in E2M1] + E2M1)
    assert np.unique(np.round(use(quantized("mxfp4", values), values).code_points, 6)) == pytest.approx(
        (symmetric + 6) / 12, abs=1e-6
    )


def test_rounding_to_nearest_moves_nothing_and_its_error_is_the_nearest_one():
    values = weights()
    weight = quantized("int3-asym", values)
    found = use(weight, values)
    error = float((weight.dequantize() - values).double().square().sum() / values.double().square().sum())
    assert found.moved == 0
    assert found.nearest_error == pytest.approx(error, rel=1e-5)
    assert found.distance == pytest.approx(0.25, abs=0.02), "uniform within half a step on either side"


def test_codes_that_are_not_the_nearest_are_counted():
    from dataclasses import replace

    values = weights()
    weight = quantized("int4-sym", values)
    codes = weight.codes.clone()
    codes[:3] = (codes[:3] + 1).clamp(max=15)
    moved = int((codes != weight.codes).sum())
    assert use(replace(weight, codes=codes), values).moved == pytest.approx(moved / values.numel())


def test_pieces_add_up_and_weights_kept_in_16_bits_are_left_out():
    from dataclasses import replace

    values = weights()
    weight = quantized("int4-sym", values)
    counter = CodeCounter(weight.format)
    for part, rows in zip(weight.split_rows([4, 6]), (slice(0, 4), slice(4, 10)), strict=True):
        counter.add(values[rows], part)
    assert counter.use().code_counts == use(weight, values).code_counts
    mask = torch.zeros_like(values, dtype=torch.bool)
    mask[:, 5] = True
    wild = values.clone()
    wild[:, 5] = 1e4
    kept = use(replace(weight, outliers=Outliers.of(wild, mask)), wild)
    assert sum(kept.code_counts) == values.numel() - len(values)
    assert kept.nearest_error < 0.1
