"""K-means on a line against the exact optimum and scikit-learn; the tables that come of it."""

import time

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans as SklearnKMeans

from quantbench.config import check_command_line
from quantbench.errors import InputError
from quantbench.formats import LUT
from quantbench.methods.allocation import DenseSparse
from quantbench.methods.curvature import Curvature
from quantbench.methods.grid import Grid
from quantbench.methods.range import KMeans, clustering
from quantbench.methods.range.clustering import weighted_kmeans
from quantbench.methods.rounding import GPTQ, RTN
from tests.methods.problems import problem


def rows(count: int, columns: int, spread: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights with a few large ones; their costs, log-normal with this spread (0: all alike)."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, columns, generator=generator) * torch.rand(count, 1, generator=generator)
    values = torch.where(torch.rand(values.shape, generator=generator) < 0.01, 4 * values, values)
    return values, torch.exp(spread * torch.randn(values.shape, generator=generator))


def inertia(values, weights, centers) -> torch.Tensor:
    """Weighted squared distance to the nearest center of each row, float64 [rows]."""
    distance = (values[..., None] - centers[:, None]).double().square().amin(-1)
    return (weights.double() * distance).sum(1)


def exact_inertia(values: torch.Tensor, weights: torch.Tensor, count: int) -> float:
    """The least possible, by dynamic programming over all intervals of the sorted values, in float64."""
    values, order = values.double().sort()
    x, w = values.numpy(), weights.double()[order].numpy()
    mass, first, second = (np.concatenate([[0], np.cumsum(t)]) for t in (w, w * x, w * x * x))
    m, f, s = (t[None] - t[:, None] for t in (mass, first, second))
    cost = np.where(m > 0, s - np.divide(f * f, m, where=m > 0, out=np.zeros_like(m)), np.inf)
    np.fill_diagonal(cost, 0)
    least = cost[0]
    for _ in range(count - 1):
        least = (least[:, None] + cost).min(0)
    return float(least[-1])


@pytest.mark.parametrize("spread", [0, 2], ids=["uniform", "fisher"])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_inertia_is_within_half_a_percent_of_the_exact_optimum(bits, spread):
    values, weights = rows(12, 300, spread)
    centers = weighted_kmeans(values, weights, 2**bits, iterations=50)
    optimum = torch.tensor([exact_inertia(v, w, 2**bits) for v, w in zip(values, weights, strict=True)])
    ratio = inertia(values, weights, centers) / optimum
    assert ratio.min() > 1 - 1e-5
    assert ratio.mean() < 1.005
    assert ratio.max() < 1.03


@pytest.mark.parametrize(("bits", "spread"), [(6, 2), (6, 0), (4, 3)])
def test_borders_far_from_their_even_share_are_found(bits, spread, monkeypatch):
    values, weights = rows(6, 800, spread)
    found = weighted_kmeans(values, weights, 2**bits, iterations=50)
    monkeypatch.setattr(clustering, "_BAND", 10**6)  # nothing is left out
    assert torch.equal(found, weighted_kmeans(values, weights, 2**bits, iterations=50))
    monkeypatch.setattr(clustering, "_BAND", 24)
    assert torch.equal(found, weighted_kmeans(values, weights, 2**bits, iterations=50))


@pytest.mark.parametrize("bits", [3, 4, 5])
def test_inertia_is_not_above_that_of_scikit_learn_as_the_authors_call_it(bits):
    values, weights = rows(8, 400, 1.5, seed=bits)
    centers = weighted_kmeans(values, weights, 2**bits, iterations=50)
    theirs = [
        SklearnKMeans(2**bits, random_state=0, n_init="auto", max_iter=50)
        .fit(v[:, None].numpy(), sample_weight=w.numpy())
        .inertia_
        for v, w in zip(values, weights, strict=True)
    ]
    ratio = inertia(values, weights, centers) / torch.tensor(theirs)
    assert ratio.max() < 1.02
    assert ratio.mean() < 1


@pytest.mark.parametrize("count", [2, 4, 16])
def test_clusters_that_are_far_apart_are_found_exactly(count):
    means = torch.arange(count) * 10.0
    values = means.repeat_interleave(20) + torch.randn(20 * count, generator=torch.Generator().manual_seed(0)) * 0.01
    centers = weighted_kmeans(values[None], torch.ones(1, 20 * count), count, iterations=50)
    torch.testing.assert_close(centers[0], values.view(count, 20).mean(1))


def test_few_equal_or_unweighted_values_are_handled():
    few = weighted_kmeans(torch.tensor([[3.0, 1.0, 2.0]]), torch.ones(1, 3), 8, iterations=50)
    assert few[0].tolist() == [1, 2, 3, 3, 3, 3, 3, 3]
    one = weighted_kmeans(torch.tensor([[5.0]]), torch.ones(1, 1), 4, iterations=50)
    assert one[0].tolist() == [5] * 4
    equal = weighted_kmeans(torch.full((2, 64), -0.5), torch.rand(2, 64), 4, iterations=50)
    assert (equal == -0.5).all()
    zeros = weighted_kmeans(torch.zeros(2, 64), torch.zeros(2, 64), 4, iterations=50)
    assert (zeros == 0).all()
    values, _ = rows(2, 64, 0)
    unweighted = [weighted_kmeans(values, w, 4, iterations=50) for w in (torch.zeros(2, 64), torch.ones(2, 64))]
    torch.testing.assert_close(*unweighted)


def test_tiny_and_huge_weights_do_not_change_the_clusters():
    values, weights = rows(4, 200, 1)
    expected = weighted_kmeans(values, weights, 8, iterations=50)
    for factor in (1e-20, 1e20):
        torch.testing.assert_close(weighted_kmeans(values, weights * factor, 8, iterations=50), expected)


def test_each_weighting_counts_errors_by_its_own_measure():
    weight, stats = problem(16, 128)
    fisher = torch.exp(2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)))
    curvature = Curvature(stats.hessian, fisher)
    costs = {
        "fisher": fisher,
        "hessian": stats.hessian.diagonal().expand_as(weight),
        "uniform": torch.ones_like(weight),
    }
    errors = {
        weighting: Grid(LUT(bits=3, group_size=64), KMeans(weighting=weighting)).nearest(weight, curvature)
        for weighting in costs
    }
    for measure, cost in costs.items():
        scored = {w: float((cost * (q.dequantize() - weight).square()).sum()) for w, q in errors.items()}
        assert min(scored, key=scored.__getitem__) == measure


def test_kept_weights_do_not_attract_a_center():
    weight, stats = problem(8, 96)
    stats.fisher = torch.ones_like(weight)
    keep = weight.abs() > 1.5
    grid = Grid(LUT(bits=2, group_size=None), KMeans())
    kept = RTN().round(weight, grid, stats, keep=keep).weight
    alone = torch.stack([weighted_kmeans(w[None, ~k], torch.ones(1, int((~k).sum())), 4, iterations=50)[0]
                         for w, k in zip(weight, keep, strict=True)])  # fmt: skip
    error = ((kept.dequantize() - weight).square() * ~keep).sum()
    assert error < 1.02 * inertia(weight.masked_fill(keep, 0), (~keep).float(), alone).sum()
    assert torch.equal(kept.dequantize()[keep], weight[keep].half().float())


def test_gptq_on_the_same_tables_has_less_output_error():
    weight, stats = problem(32, 256)
    stats.fisher = stats.hessian.diagonal().expand_as(weight).clone()
    grid = Grid(LUT(bits=3, group_size=None), KMeans())
    nearest, gptq = (r.round(weight, grid, stats).weight for r in (RTN(), GPTQ(static_groups=True, act_order=True)))
    assert torch.equal(nearest.params.codebook, gptq.params.codebook)
    assert stats.output_error(gptq.dequantize() - weight) < 0.6 * stats.output_error(nearest.dequantize() - weight)


def test_a_layer_of_smollm2_takes_well_under_a_second():
    values, weights = rows(1536, 576, 2)
    start = time.process_time()
    weighted_kmeans(values, weights, 16, iterations=50)
    assert time.process_time() - start < 3  # a quarter of a second on an idle core; the margin is for busy ones


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["format=lut"], "^format=lut has tables to learn: allowed only with range=kmeans$"),
        (["range=kmeans"], "^range=kmeans learns tables: allowed only with format=lut$"),
        (["method=squeezellm", "bits=9"], "bits=9: allowed for look-up tables are 2 to 8"),
        (["method=squeezellm", "range.weighting=x"], "range.weighting=x: allowed are fisher, hessian, uniform"),
        (["method=squeezellm", "range.iterations=0"], "range.iterations=0: allowed"),
    ],
)
def test_what_has_no_meaning_is_refused_in_one_line(arguments, message):
    with pytest.raises(InputError, match=message):
        check_command_line(arguments, multirun=False)


def test_squeezellm_is_the_papers():
    config = check_command_line(["method=squeezellm"], multirun=False)[0]
    assert (config.format, config.range, type(config.rounding)) == (LUT(bits=4, group_size=None), KMeans(), RTN)
    assert config.allocation == DenseSparse(outliers=0.0045, sensitive=0.0005)
    assert config.variant().needs_fisher
    crossed = check_command_line(["method=squeezellm", "rounding=gptq", "range=kmeans_hessian"], multirun=False)[0]
    assert (type(crossed.rounding), crossed.range.weighting) == (GPTQ, "hessian")
