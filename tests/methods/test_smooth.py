"""SmoothQuant's scales against equation 4 computed on the data itself, and the function that they leave as it is."""

import pytest
import torch

from quantbench.formats import IntFormat
from quantbench.methods.allocation import Uniform
from quantbench.methods.grid import Grid
from quantbench.methods.range import MinMax
from quantbench.methods.rounding import RTN
from quantbench.methods.stats import SiteStats
from quantbench.methods.transform import SiteProblem, SmoothQuant
from quantbench.methods.variant import Variant
from quantbench.models.branch import VariantResult
from quantbench.models.canonical import canonicalise_
from quantbench.models.capture import capturing
from quantbench.models.solve import BlockSolver
from quantbench.models.structure import find_structure
from tests.models import tiny


def problem(inputs, *weights, **options):
    stats = SiteStats.empty(inputs.shape[1])
    for batch in inputs.split(100):
        stats.update(batch)
    grid = Grid(IntFormat(bits=8, group_size=None), MinMax())
    return SiteProblem(weights=weights, stats=stats, grid=grid, linear_error=lambda _: 0.0, **options)


def data():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(300, 24, generator=generator) * torch.exp(2 * torch.randn(24, generator=generator))
    return inputs, torch.randn(10, 24, generator=generator), 3 * torch.randn(6, 24, generator=generator)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.85, 1.0])
def test_scale_is_equation_4_on_the_data_in_float64(alpha):
    inputs, first, second = data()
    x, w = inputs.double(), torch.cat([first, second]).double()
    expected = [float(x[:, j].abs().max() ** alpha / w[:, j].abs().max() ** (1 - alpha)) for j in range(24)]
    scale = SmoothQuant(alpha=alpha).site_scale(problem(inputs, first, second))
    torch.testing.assert_close(scale, torch.tensor(expected))


def test_at_one_half_activations_and_weights_end_with_equal_ranges():
    """The paper's reading of alpha = 0.5: max|x_j / s_j| = max|w_j s_j| = sqrt(max|x_j| max|w_j|)."""
    inputs, weight, _ = data()
    scale = SmoothQuant(alpha=0.5).site_scale(problem(inputs, weight))
    torch.testing.assert_close((inputs / scale).abs().amax(0), (weight * scale).abs().amax(0))


def test_channels_without_activations_or_weights_keep_one():
    inputs, weight, _ = data()
    inputs[:, 3], weight[:, 5] = 0, 0
    scale = SmoothQuant().site_scale(problem(inputs, weight))
    assert scale[3] == scale[5] == 1
    assert bool((torch.isfinite(scale) & (scale > 0)).all())


def test_only_norm_fed_sites_are_scaled_unless_all_are_asked_for():
    inputs, weight, _ = data()
    assert SmoothQuant().site_scale(problem(inputs, weight, norm_fed=False)) is None
    assert SmoothQuant(sites="all").site_scale(problem(inputs, weight, norm_fed=False)) is not None
    assert SmoothQuant().site_scale(problem(inputs[:0], weight)) is None

    def tie(scale):
        return scale.view(2, 12).mean(0).repeat(2)

    tied = SmoothQuant(sites="all").site_scale(problem(inputs, weight, norm_fed=False, tie=tie))
    assert torch.equal(tied[:12], tied[12:])


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_scaled_model_computes_the_same_function(name):
    model = tiny.build(name)
    canonicalise_(model)
    structure, ids, cpu = find_structure(model), tiny.token_ids(4), torch.device("cpu")
    every_site = Variant(IntFormat(), MinMax(), SmoothQuant(sites="all"), RTN(), Uniform(), "fp")
    with torch.no_grad():
        expected = model(ids).logits
        for block in structure.blocks:
            weights = {n: p.clone() for n, p in block.module.named_parameters()}
            with capturing(block.module, block, sites=[site.name for site in block.sites], device=cpu) as capture:
                model(ids)
            BlockSolver(block, block.module, every_site, capture, VariantResult(), cpu).transform({})
            moved = {n for n, p in block.module.named_parameters() if not torch.equal(p, weights[n])}
            for site in block.sites:
                scaled = site.fold is not None and capture.stats[site.name].count > 0
                assert not scaled or {f"{linear}.weight" for linear in site.linears} <= moved, site.name
        assert (model(ids).logits - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("build", [lambda: SmoothQuant(alpha=1.5), lambda: SmoothQuant(sites="some")])
def test_out_of_range_hyperparameters_are_refused(build):
    with pytest.raises(ValueError, match="allowed"):
        build()
