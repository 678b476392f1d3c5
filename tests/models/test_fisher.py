"""Squared gradients against torch.func's per-sample gradients in float64, and their way through the walk."""

import copy

import pytest
import torch
from torch.func import functional_call, grad

from quantbench.errors import QuantizationError
from quantbench.formats import LUT
from quantbench.methods.allocation import DenseSparse, Uniform
from quantbench.methods.curvature import Curvature
from quantbench.methods.grid import Grid
from quantbench.methods.range import KMeans
from quantbench.methods.rounding import GPTQ, RTN
from quantbench.methods.transform import NoTransform, SiteScaling
from quantbench.methods.variant import Variant
from quantbench.models.canonical import canonicalise_
from quantbench.models.fisher import fisher_information
from quantbench.models.folds import scale_site_, tied_mean
from quantbench.models.structure import find_structure
from quantbench.models.walk import quantize
from tests.models import tiny

CPU = torch.device("cpu")
FORMAT = LUT(bits=3, group_size=None)


def load(name="llama"):
    model = tiny.build(name)
    canonicalise_(model)
    return model, find_structure(model), torch.randint(3, 96, (5, 20), generator=torch.Generator().manual_seed(1))


def linears_of(structure):
    return [f"{block.name}.{name}" for block in structure.blocks for name in block.linears]


def per_sample_squares(model, linears, ids):
    """Mean of squared per-sample gradients by torch.func, in the model's dtype."""
    names = [f"{name}.weight" for name in linears]
    parameters = {name: model.get_parameter(name).detach() for name in names}

    def loss(chosen, sample):
        logits = functional_call(model, chosen, (sample[None],), {"use_cache": False}).logits[0]
        return torch.nn.functional.cross_entropy(logits[:-1], sample[1:])

    gradients = [grad(loss)(parameters, sample) for sample in ids]
    return {linear: torch.stack([g[f"{linear}.weight"] for g in gradients]).square().mean(0) for linear in linears}


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral"])
def test_squares_are_those_of_per_sample_gradients_in_float64(name):
    model, structure, ids = load(name)
    linears = linears_of(structure)
    actual = fisher_information(model, linears, ids, device=CPU)
    expected = per_sample_squares(model.double(), linears, ids)
    assert actual.keys() == expected.keys()
    for linear, square in expected.items():
        torch.testing.assert_close(actual[linear].double(), square, rtol=2e-3, atol=float(square.max()) * 1e-5)
        assert actual[linear].dtype == torch.float32


def test_model_is_left_without_gradients_or_hooks_and_the_result_repeats():
    model, structure, ids = load()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    once, twice = (fisher_information(model, linears_of(structure), ids, device=CPU) for _ in range(2))
    assert all(torch.equal(once[name], twice[name]) for name in once)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert not parameter.requires_grad
        assert parameter.grad is None
        assert not parameter._post_accumulate_grad_hooks


def test_gradient_that_is_not_finite_stops_the_run_and_names_the_layer():
    model, structure, ids = load()
    model.model.norm.weight.data[0] = float("inf")
    with pytest.raises(QuantizationError, match=r"model\.layers\.0\..*squared gradients hold NaN or Inf"):
        fisher_information(model, linears_of(structure), ids, device=CPU)


def variant(rounding=None, transform=None, allocation=None):
    return Variant(
        FORMAT, KMeans(), transform or NoTransform(), rounding or RTN(), allocation or Uniform(), "propagate"
    )


def test_walk_hands_each_linear_its_own_squares():
    model, structure, ids = load()
    squares = fisher_information(model, linears_of(structure), ids, device=CPU)
    result = quantize(model, structure, [variant()], ids, device=CPU)[0]
    for name, quantized in result.weights.items():
        weight = model.get_submodule(name).weight.detach()
        curvature = Curvature(torch.eye(weight.shape[1]), squares[name])
        assert torch.equal(quantized.codes, Grid(FORMAT, KMeans()).nearest(weight, curvature).codes), name


class Seen(RTN):
    """Round to nearest that notes the squares it was given."""

    def __init__(self):
        super().__init__()
        self.squares = []

    def round(self, weight, grid, stats, *, keep=None):
        self.squares.append(stats.fisher)
        return super().round(weight, grid, stats, keep=keep)


class Fixed(SiteScaling):
    """Scales every site that can be scaled, by known factors."""

    def site_scale(self, problem):
        scale = factors(problem.weights[0].shape[1])
        return scale if problem.tie is None else problem.tie(scale)


def factors(columns):
    return 1.2 + torch.sin(torch.arange(columns, dtype=torch.float32))


@pytest.mark.parametrize("name", ["llama", "opt", "qwen3-moe"])
def test_squares_under_a_scaling_are_those_of_the_scaled_model(name):
    model, structure, ids = load(name)
    seen = Seen()
    quantize(model, structure, [variant(seen, Fixed())], ids, device=CPU)
    scaled = copy.deepcopy(model)
    for block in structure.blocks:
        folds = {site.fold.sites: site for site in block.sites if site.fold is not None}
        for site in folds.values():
            module = scaled.get_submodule(block.name)
            columns = module.get_submodule(site.linears[0]).in_features
            scale_site_(module, site, tied_mean(factors(columns), site.fold))
    linears = linears_of(structure)
    expected, plain = (fisher_information(m, linears, ids, device=CPU) for m in (scaled, model))
    sites = [[f"{b.name}.{n}" for n in site.linears] for b in structure.blocks for site in b.sites]
    assert len(seen.squares) == len(sites)
    for actual, names in zip(seen.squares, sites, strict=True):
        square, before = (torch.cat([f[n] for n in names]) for f in (expected, plain))
        torch.testing.assert_close(actual, square, rtol=0.01, atol=float(square.max()) * 1e-4)
        assert not square.any() or not torch.allclose(actual, before, rtol=0.1)


def test_squeezellm_keeps_the_weights_of_greatest_square_in_16_bits():
    model, structure, ids = load()
    squares = fisher_information(model, linears_of(structure), ids, device=CPU)
    allocation = DenseSparse(outliers=0, sensitive=0.01)
    result = quantize(model, structure, [variant(allocation=allocation)], ids, device=CPU)[0]
    for name, quantized in result.weights.items():
        expected = squares[name].flatten().topk(len(quantized.outliers.index)).indices.sort().values
        assert torch.equal(quantized.outliers.index, expected), name


def test_gptq_on_learned_tables_runs_through_the_walk():
    model, structure, ids = load()
    rounding = GPTQ(static_groups=True)
    nearest, gptq = quantize(model, structure, [variant(), variant(rounding)], ids, device=CPU)
    first = next(iter(gptq.weights))
    assert torch.equal(nearest.weights[first].params.codebook, gptq.weights[first].params.codebook)
    assert not torch.equal(nearest.weights[first].codes, gptq.weights[first].codes)
