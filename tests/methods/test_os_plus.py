"""Outlier Suppression+ against its equations on the data itself, and the function that it leaves as it is."""

from dataclasses import replace

import pytest
import torch

from quantbench.errors import InputError
from quantbench.formats import IntFormat
from quantbench.methods.activation import DynamicActivation, NoActivation, StaticActivation
from quantbench.methods.allocation import Uniform
from quantbench.methods.grid import Grid
from quantbench.methods.input_sample import InputSample
from quantbench.methods.range import MinMax
from quantbench.methods.rounding import GPTQ, RTN, KeepFullPrecision
from quantbench.methods.stats import SiteStats
from quantbench.methods.transform import OSPlus, SiteProblem, SmoothQuant
from quantbench.methods.variant import Variant
from quantbench.models.canonical import canonicalise_
from quantbench.models.solve import apply_result
from quantbench.models.structure import find_structure
from quantbench.models.walk import quantize
from tests.models import tiny

CPU = torch.device("cpu")
WEIGHTS = IntFormat(bits=8, group_size=None, symmetric=True, narrow_range=True)


def int8(x, ends):
    scale = ends.abs().max() / 127
    return (x / scale).round().clamp(-127, 127) * scale


def problem(inputs, *weights, **options):
    sample, stats = InputSample(stride=3), SiteStats.empty(inputs.shape[1])
    for batch in inputs.split(50):
        sample.add(batch)
        stats.update(batch)
    return SiteProblem(
        weights=weights,
        stats=stats,
        grid=Grid(WEIGHTS, MinMax()),
        linear_error=lambda _: 0.0,
        sample=sample,
        reads=[int8] * len(weights),
        **options,
    )


def data():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(300, 24, generator=generator)
    inputs[:, 4] = 30 + 4 * inputs[:, 4]
    inputs[:, 9] *= 12
    return inputs, torch.randn(10, 24, generator=generator), torch.randn(6, 24, generator=generator)


def run_time_error(x, ends, weights, scale, shift):
    """Equation 6 in float64: both sides of every linear rounded to int8, on every third token."""
    x, ends = (x[::3] - shift).double(), (ends - shift).double()
    error = 0.0
    for weight in weights:
        scaled = weight.double() * scale
        step = (scaled.abs().amax(1, keepdim=True) / 127).half().double()
        rounded = (scaled / step).round() * step
        delta = int8(x / scale, ends / scale) @ rounded.T - x @ weight.double().T
        error += float(delta.square().sum(1).mean())
    return error


def test_the_sample_is_every_third_token_and_the_ends_are_those_of_all():
    inputs, *_ = data()
    sample = problem(inputs).sample
    assert torch.equal(sample.tokens, inputs[::3])
    assert torch.equal(sample.ends, torch.stack([inputs.amin(0), inputs.amax(0)]))


def test_shift_is_the_middle_of_each_channel():
    inputs, weight, _ = data()
    shift = OSPlus().site_shift(problem(inputs, weight, shiftable=True))
    assert torch.equal(shift, (inputs.amax(0) + inputs.amin(0)) / 2)
    assert OSPlus().site_shift(problem(inputs, weight)) is None
    assert OSPlus(shift=False).site_shift(problem(inputs, weight, shiftable=True)) is None


@pytest.mark.parametrize("shift", [True, False])
def test_scale_is_the_best_of_equation_7_by_equation_6_in_float64(shift):
    inputs, *weights = data()
    found = OSPlus(shift=shift, steps=20).site_scale(problem(inputs, *weights, shiftable=True))
    ends = torch.stack([inputs.amin(0), inputs.amax(0)])
    z = ends.mean(0) if shift else torch.zeros(24)
    largest = (ends - z).abs().amax(0)
    thresholds = [float(largest.max()) - step * (float(largest.max()) - 0.1) / 20 for step in range(21)]
    scales = [(largest / t).clamp(min=1) for t in thresholds]
    errors = [run_time_error(inputs, ends, weights, scale.double(), z) for scale in scales]
    best = errors.index(min(errors))
    torch.testing.assert_close(found, scales[best])
    assert 0 < best < 20, "an end of the search would say little"
    assert errors[best] < 0.7 * errors[0]


def test_searched_alpha_has_the_least_error_in_float64():
    inputs, *weights = data()
    found = SmoothQuant(alpha=None, n_grid=10).site_scale(problem(inputs, *weights))
    scales = [SmoothQuant(alpha=step / 10).site_scale(problem(inputs, *weights)) for step in range(11)]
    ends = torch.stack([inputs.amin(0), inputs.amax(0)])
    errors = [run_time_error(inputs, ends, weights, scale.double(), torch.zeros(24)) for scale in scales]
    assert torch.equal(found, scales[errors.index(min(errors))])
    assert 0 < errors.index(min(errors)) < 10


def variant(transform, rounding=None, activation=None, statistics="fp"):
    return Variant(
        WEIGHTS,
        MinMax(),
        transform,
        rounding or RTN(),
        Uniform(),
        statistics,
        activation=activation or NoActivation(),
    )


@torch.no_grad()
@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_shifted_and_scaled_model_computes_the_same_function(name):
    model = tiny.build(name)
    canonicalise_(model)
    structure, ids = find_structure(model), tiny.token_ids(4)
    before = model(ids).logits
    still = DynamicActivation(skip=["*"])  # something must be quantized for the walk to transform anything
    one = variant(OSPlus(steps=3), KeepFullPrecision(), still)
    result = quantize(model, structure, [one], ids, device=CPU)[0]
    names = {name for name, _ in model.named_parameters()}
    undo = apply_result(model, result)
    after = model(ids).logits
    assert (after - before).abs().max() <= 1e-4 * before.abs().max()
    moved = {
        site.role
        for block in structure.blocks
        for site in block.sites
        if site.fold and site.fold.norm_offset is not None
    }
    shifted = {name for name in result.parameters if name.endswith("norm.bias") or "ln_" in name}
    assert bool(shifted) == bool(moved), "every architecture whose norms feed linears is shifted"
    undo()
    assert {name for name, _ in model.named_parameters()} == names
    assert torch.equal(model(ids).logits, before)


@torch.no_grad()
@pytest.mark.parametrize("statistics", ["fp", "propagate"])
def test_linears_read_centred_channels_in_either_statistics_mode(statistics):
    model = tiny.build("llama")
    canonicalise_(model)
    for block in model.model.layers:  # a large constant in a channel, as outliers are
        block.input_layernorm.weight[3] = 8.0
    structure, ids = find_structure(model), tiny.token_ids(4)
    one = variant(OSPlus(steps=5), RTN(), StaticActivation(), statistics)
    result = quantize(model, structure, [one], ids, device=CPU)[0]
    apply_result(model, replace(result, inputs={}))
    seen = {}
    last = structure.blocks[-1 if statistics == "propagate" else 0]
    linear = model.get_submodule(f"{last.name}.self_attn.q_proj")
    linear.register_forward_pre_hook(lambda module, args: seen.setdefault("x", args[0]))
    model(ids)
    low, high = seen["x"].flatten(0, 1).aminmax(dim=0)
    assert (low + high).abs().max() < 0.02 * (high - low).max()
    assert linear.bias is not None


@torch.no_grad()
def test_weights_are_rounded_on_statistics_of_the_shifted_inputs():
    model = tiny.build("llama")
    canonicalise_(model)
    structure, ids = find_structure(model), tiny.token_ids(4)
    result = quantize(model, structure, [variant(OSPlus(steps=2), GPTQ())], ids, device=CPU)[0]
    full = quantize(
        model,
        structure,
        [variant(OSPlus(steps=2), KeepFullPrecision(), DynamicActivation(skip=["*"]))],
        ids,
        device=CPU,
    )[0]
    apply_result(model, full)
    name = f"{structure.blocks[0].name}.self_attn.q_proj"
    stats, linear = SiteStats.empty(32), model.get_submodule(name)
    linear.register_forward_pre_hook(lambda module, args: stats.update(args[0]))
    model(ids)
    alone = GPTQ().round(linear.weight.float(), Grid(WEIGHTS, MinMax()), stats).weight
    assert (alone.codes == result.weights[name].codes).float().mean() > 0.995


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match=r"^transform.steps=0: allowed is a positive integer"):
        OSPlus(steps=0)
    with pytest.raises(ValueError, match=r"^transform.sites=some: allowed are norm_fed, all"):
        OSPlus(sites="some")
    with pytest.raises(ValueError, match=r"^transform.n_grid=0: allowed is a positive integer"):
        SmoothQuant(n_grid=0)


def test_a_model_with_added_biases_is_not_saved():
    from quantbench.config import check_command_line

    with pytest.raises(InputError, match=r"^save=x: allowed only with transform.shift=false"):
        check_command_line(["transform=os_plus", "save=x"], multirun=False)
