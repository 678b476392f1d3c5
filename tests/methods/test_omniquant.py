"""OmniQuant: its starting point in closed form, learned clipping against a grid search, the equivalent transform."""

import pytest
import torch

from quantbench.formats import IntFormat
from quantbench.methods.grid import Grid
from quantbench.methods.range import MinMax
from quantbench.methods.rounding import RTN, OmniQuant
from quantbench.methods.stats import SiteStats
from tests.methods.problems import problem


def grid(bits=3, group_size=16, **options) -> Grid:
    return Grid(IntFormat(bits=bits, group_size=group_size, **options), MinMax())


def clipped_nearest(weight: torch.Tensor, low_factor, high_factor, bits: int) -> torch.Tensor:
    """Round to nearest on [low_factor min w, high_factor max w] of each row, float64."""
    w, top = weight.double(), 2**bits - 1
    low, high = low_factor * w.amin(1, keepdim=True).clamp(max=0), high_factor * w.amax(1, keepdim=True).clamp(min=0)
    scale = (high - low) / top
    zero = torch.round(-low / scale)
    return scale * ((torch.round(w / scale) + zero).clamp(0, top) - zero)


def test_it_starts_from_ranges_cut_to_sigmoid_of_four():
    weight, stats = problem(10, 48)
    ours = OmniQuant(epochs=0).round(weight, grid(group_size=None, scale_dtype="float32"), stats).weight.dequantize()
    factor = torch.tensor(4.0, dtype=torch.float64).sigmoid()
    expected = clipped_nearest(weight, factor, factor, bits=3)
    assert torch.isclose(ours.double(), expected, atol=1e-5).float().mean() > 0.995  # a weight on a code's edge


def test_learned_clipping_comes_near_the_best_of_a_grid_of_clipping_factors():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 64, generator=generator)
    weight[:, 0] *= 4  # an outlier that is worth clipping
    fixed, tuner = grid(bits=3, group_size=None, scale_dtype="float32"), OmniQuant(lwc_lr=0.05)
    tunable = tuner.tunable(weight, fixed, None)
    optimizer = tuner.optimizer(tunable.groups())
    parameters = [p for group in tunable.groups() for p in group["params"]]
    for _ in range(250):
        loss = (tunable.fake_quantized(weight) - weight).square().sum()
        for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            p.grad = gradient
        optimizer.step()
    factors = torch.linspace(0.2, 1, 33, dtype=torch.float64)
    errors = torch.stack(
        [(clipped_nearest(weight, a, b, 3) - weight).square().sum(1) for a in factors for b in factors]
    )
    best = errors.amin(0).sum()
    ours = (tunable.quantized(weight).dequantize() - weight).square().sum()
    nearest = (RTN().round(weight, fixed, None).weight.dequantize() - weight).square().sum()
    assert ours - best < 0.4 * (nearest - best)  # gradients see a step function through its trend


def test_what_was_tuned_is_what_is_stored():
    weight, stats = problem(12, 40)
    tunable = OmniQuant().tunable(weight, grid(symmetric=True), stats)
    for group in tunable.groups():
        for p in group["params"]:
            p.data += torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(tunable.fake_quantized(weight), tunable.quantized(weight).dequantize())


@pytest.mark.parametrize(("bits", "epochs"), [(2, 40), (3, 20), (4, 20)])
def test_two_bits_get_twice_the_epochs(bits, epochs):
    schedule = OmniQuant().schedule(128, IntFormat(bits=bits))
    assert schedule.steps == epochs * 128
    assert schedule.batch_size == 1
    assert not schedule.shuffled
    assert not schedule.keep_best


def test_learning_rates_and_starting_scales_are_the_authors():
    weight, stats = problem(8, 32)
    tuner = OmniQuant(let=True)
    assert [group["lr"] for group in tuner.tunable(weight, grid(), stats).groups()] == [1e-2]
    scale = tuner.tunable_scale([weight], stats, None, shift=False)
    assert [group["lr"] for group in scale.groups()] == [5e-3]
    expected = stats.absmax.double().sqrt() / weight.double().abs().amax(0).sqrt()
    torch.testing.assert_close(scale.scale().double(), expected, rtol=1e-5, atol=0)
    assert scale.shift() is None
    assert tuner.tunable_scale([weight], stats, None, shift=True).shift().tolist() == [0] * 32


def test_tied_channels_share_one_scale_and_its_gradient():
    weight, stats = problem(8, 6)
    ties = torch.tensor([4, 5, 4, 5, 9, 9])
    scale = OmniQuant(let=True).tunable_scale([weight], stats, ties, shift=False)
    (free,) = scale.groups()[0]["params"]
    assert free.shape == (3,)
    value = scale.scale()
    assert value[0] == value[2]
    assert value[1] == value[3]
    assert value[4] == value[5]
    (gradient,) = torch.autograd.grad(value.sum(), free)
    assert gradient.tolist() == [2, 2, 2]


def test_clipping_alone_learns_no_scale_and_needs_no_statistics():
    weight, stats = problem(8, 32)
    assert OmniQuant().tunable_scale([weight], stats, None, shift=True) is None
    assert OmniQuant(let=True).tunable_scale([weight], SiteStats.empty(32), None, shift=True) is None
    assert not OmniQuant().needs_calibration
    assert OmniQuant(let=True).needs_calibration


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": -1}, r"rounding\.epochs=-1: allowed"),
        ({"batch_size": 0}, r"rounding\.batch_size=0: allowed"),
        ({"lwc_lr": 0.0}, r"rounding\.lwc_lr=0\.0: allowed"),
        ({"let_lr": -1.0}, r"rounding\.let_lr=-1\.0: allowed"),
        ({"alpha": 1.5}, r"rounding\.alpha=1\.5: allowed"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        OmniQuant(**options)
