"""AWQ's search against direct evaluation of its objective on the data itself, in float64."""

import math

import pytest
import torch

from quantbench.formats import IntFormat
from quantbench.methods.grid import Grid
from quantbench.methods.range import AWQClip, MinMax
from quantbench.methods.stats import SiteStats
from quantbench.methods.transform import AWQ, SiteProblem

FORMAT = IntFormat(bits=3, group_size=16, scale_dtype="float32")


def data(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, SiteStats]:
    generator = torch.Generator().manual_seed(seed)
    strength = torch.exp(1.5 * torch.randn(48, generator=generator))
    inputs = torch.randn(300, 48, generator=generator) * strength
    stats = SiteStats.empty(48)
    stats.update(inputs)
    return torch.randn(20, 48, generator=generator), inputs, stats


def problem(weight, stats, **options):
    return SiteProblem(
        weights=[weight],
        stats=stats,
        grid=Grid(FORMAT, MinMax()),
        linear_error=lambda replaced: stats.output_error(replaced[0] - weight),
        **options,
    )


def fake_quantize(weight: torch.Tensor) -> torch.Tensor:
    """Min-max asymmetric round-to-nearest in groups of 16, written out."""
    groups = weight.view(len(weight), -1, 16)
    low, high = groups.amin(-1, keepdim=True).clamp(max=0), groups.amax(-1, keepdim=True).clamp(min=0)
    scale = (high - low) / 7
    zero = torch.round(-low / scale)
    return ((torch.round(groups / scale) + zero).clamp(0, 7) - zero).mul(scale).view_as(weight)


@pytest.mark.parametrize("objective", ["linear", "module"])
def test_chosen_scale_is_the_minimum_over_the_papers_grid(objective):
    weight, inputs, stats = data()
    x, w = inputs.double(), weight.double()

    def module_output(matrix):
        return torch.nn.functional.silu(x @ matrix.double().T)

    def module_error(replaced, limit=math.inf):
        return float((module_output(replaced[0]) - module_output(weight)).square().mean())

    options = {"module_error": module_error} if objective == "module" else {}
    chosen = AWQ(objective=objective).site_scale(problem(weight, stats, **options))
    errors, scales = [], []
    for ratio in (i / 20 for i in range(20)):
        scale = x.abs().mean(0) ** ratio
        scale = scale / (scale.max() * scale.min()).sqrt()
        rounded = fake_quantize(w * scale) / scale
        difference = module_output(rounded) - module_output(w) if objective == "module" else x @ (rounded - w).T
        errors.append(float(difference.square().sum()))
        scales.append(scale)
    best = min(range(20), key=errors.__getitem__)
    assert best > 0, "the data must make scaling worthwhile, or the test shows nothing"
    torch.testing.assert_close(chosen.double(), scales[best], rtol=1e-4, atol=0)


def test_tied_channels_are_skipped_unless_asked_for():
    weight, _, stats = data()

    def tie(scale):
        return scale.view(2, 24).mean(0).repeat(2)

    assert AWQ(objective="linear").site_scale(problem(weight, stats, tie=tie)) is None
    scale = AWQ(objective="linear", tie_heads=True).site_scale(problem(weight, stats, tie=tie))
    assert torch.equal(scale[:24], scale[24:])


def test_no_tokens_means_no_scaling():
    assert AWQ().site_scale(problem(torch.randn(2, 48), SiteStats.empty(48))) is None


def test_clip_is_the_minimum_of_the_output_error_over_the_grid():
    weight, inputs, stats = data(1)
    weight = weight**3  # heavy tails make clipping worthwhile
    quantized = Grid(FORMAT, AWQClip()).nearest(weight, stats.curvature)
    clipped_groups = 0
    for group in range(3):
        span = slice(16 * group, 16 * group + 16)
        # fp32, as the search itself: a group clipped on both sides has its zero-point exactly between two codes
        w, x = weight[:, span], inputs[:, span].double()
        bound = w.abs().amax(1, keepdim=True)
        candidates = [fake_quantize(w.clamp(-bound * (1 - i / 20), bound * (1 - i / 20))) for i in range(10)]
        errors = torch.stack([((q - w).double() @ x.T).square().sum(1) for q in candidates])
        best = errors.argmin(0)
        clipped_groups += int((best > 0).sum())
        reached = ((quantized.dequantize()[:, span] - w).double() @ x.T).square().sum(1)
        torch.testing.assert_close(reached, errors.amin(0), rtol=1e-3, atol=0)
    assert clipped_groups > 20


@pytest.mark.parametrize(
    ("name", "clipped"),
    [("self_attn.q_proj", False), ("self_attn.k_proj", False), ("self_attn.v_proj", True), ("mlp.down_proj", True)],
)
def test_query_and_key_are_not_clipped(name, clipped):
    assert isinstance(AWQClip().for_linear(name), AWQClip if clipped else MinMax)


@pytest.mark.parametrize(
    "build",
    [lambda: AWQ(n_grid=0), lambda: AWQ(objective="x"), lambda: AWQClip(grid=0), lambda: AWQClip(max_shrink=0)],
)
def test_out_of_range_hyperparameters_are_refused(build):
    with pytest.raises(ValueError, match="allowed"):
        build()
