"""AutoRound: its identities, one step of its optimiser in float64, and the best of all roundings by enumeration."""

import itertools
import math
import random

import pytest
import torch

from quantbench.config.schema import components
from quantbench.formats import LUT, IntFormat
from quantbench.methods.allocation import Uniform
from quantbench.methods.grid import Grid
from quantbench.methods.range import AWQClip, KMeans, MinMax
from quantbench.methods.rounding import RTN, AutoRound
from quantbench.methods.rounding.autoround import SignSGD
from quantbench.methods.stats import SiteStats
from quantbench.methods.transform import NoTransform
from quantbench.methods.variant import Variant
from tests.methods.problems import problem


def grid(bits=4, group_size=16, range_=None, **options) -> Grid:
    return Grid(IntFormat(bits=bits, group_size=group_size, **options), range_ or MinMax())


def output_error(weight: torch.Tensor, value: torch.Tensor, hessian: torch.Tensor) -> torch.Tensor:
    delta = value - weight
    return ((delta @ hessian) * delta).sum()


def tuned(tuner: AutoRound, weight, grid, stats, *, keep=None):
    """A lone linear tuned on its own output error: the contract of the loop, with the expected loss at each step."""
    tunable = tuner.tunable(weight, grid, stats, keep=keep)
    groups = tunable.groups()
    parameters = [p for group in groups for p in group["params"]]
    optimizer = tuner.optimizer(groups)
    first = [group["lr"] for group in groups]
    best, least = None, torch.inf
    for step in range(tuner.iterations):
        loss = output_error(weight, tunable.fake_quantized(weight), stats.hessian)
        if loss.item() < least:
            least, best = loss.item(), [p.detach().clone() for p in parameters]
        for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
            p.grad = gradient
        for group, lr in zip(optimizer.param_groups, first, strict=True):
            group["lr"] = lr * (1 - step / tuner.iterations)
        optimizer.step()
        tunable.project_()
    for p, value in zip(parameters, best or parameters, strict=True):
        p.data.copy_(value)
    return tunable.quantized(weight)


GRIDS = {
    "w4-asym": grid(),
    "w2-sym": grid(bits=2, symmetric=True),
    "w3-absmax": grid(bits=3, symmetric=True, narrow_range=True),
    "w4-row": grid(group_size=None),
    "w4-g20-ragged": grid(group_size=20),
    "w4-tensor": grid(per_tensor=True),
    "w3-awq_clip": grid(bits=3, range_=AWQClip()),
    "w3-awq_clip-sym": grid(bits=3, range_=AWQClip(), symmetric=True),
}


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
def test_without_iterations_it_is_round_to_nearest_bit_for_bit(grid):
    weight, stats = problem(12, 48)
    ours = AutoRound(iterations=0).round(weight, grid, stats).weight
    nearest = RTN().round(weight, grid, stats).weight
    assert torch.equal(ours.codes, nearest.codes)
    assert torch.equal(ours.dequantize(), nearest.dequantize())
    assert ours.pack().nbytes == nearest.pack().nbytes


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
def test_what_was_tuned_is_what_is_stored(grid):
    weight, stats = problem(12, 48)
    generator = torch.Generator().manual_seed(1)
    tunable = AutoRound().tunable(weight, grid, stats)
    for group in tunable.groups():
        for p in group["params"]:
            p.data += 0.4 * (torch.rand(p.shape, generator=generator) - 0.5)
    tunable.project_()
    assert torch.equal(tunable.fake_quantized(weight), tunable.quantized(weight).dequantize())


FORMATS = {
    name: choice for name, choice in components("format").items() if choice is not LUT and not choice.__subclasses__()
}


@pytest.mark.parametrize("choice", FORMATS.values(), ids=FORMATS.keys())
def test_any_format_with_a_range_starts_at_round_to_nearest_and_gets_better(choice):
    weight, stats = problem(8, 256)
    grid = Grid(choice().for_shape(8, 256), MinMax())
    nearest = RTN().round(weight, grid, None).weight
    assert torch.equal(AutoRound(iterations=0).round(weight, grid, None).weight.dequantize(), nearest.dequantize())
    tuner = AutoRound(iterations=60, lr=5e-3, minmax_lr=1e-6)  # second-level scales jump: here the codes alone move
    ours = tuned(tuner, weight, grid, stats).dequantize()
    before, after = (output_error(weight, v, stats.hessian) for v in (nearest.dequantize(), ours))
    assert after < before


def test_look_up_tables_have_no_range_to_learn():
    one = Variant(LUT(), KMeans(), NoTransform(), AutoRound(), Uniform(), "propagate")
    with pytest.raises(ValueError, match="rounding=autoround learns ranges, which format=lut has not"):
        one.check()


# auto-round 0.16.1 (quant_tensor_asym and SignSGD, fp32 scales, 3 bits, groups of 16) on the layer of
# test_fifty_steps...: loss before steps 0, 7, ..., 49 and the codes after 49 steps at 0.005 (1 - i / 50).
PEER_LOSSES = [2.5394201, 2.6545153, 2.5079947, 2.4472234, 2.8000827, 2.6152258, 2.8109341, 3.1250451]
PEER_CODES = """
    60140341046127127040265223147103 37232050634217463741440354314152
    23232345223440727012315051620473 32110037444142566452321112074343
    44405344352423764640541075524735 03011430222043272507102105532511
    73364254367725502314515732202434 33414310276523354055224233217233
"""


def test_fifty_steps_are_those_of_auto_round():
    def normal(seed, *shape):  # the same numbers in every version of torch
        draw = random.Random(seed)
        return torch.tensor([draw.gauss(0, 1) for _ in range(math.prod(shape))]).view(shape)

    weight, inputs = normal(0, 8, 32), normal(1, 64, 32) * normal(2, 32).exp()
    tuner, losses = AutoRound(iterations=50, lr=5e-3), []
    tunable = tuner.tunable(weight, grid(bits=3, scale_dtype="float32"), None)
    optimizer = tuner.optimizer(tunable.groups())
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for step in range(50):
        loss = (inputs @ (tunable.fake_quantized(weight) - weight).T).square().mean()
        losses.append(loss.item())
        codes = tunable.quantized(weight).codes
        for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            p.grad = gradient
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * (1 - step / 50)
        optimizer.step()
        tunable.project_()
    assert losses[::7] == pytest.approx(PEER_LOSSES, rel=1e-3)
    theirs = torch.tensor([[int(code) for code in row] for row in PEER_CODES.split()])
    assert (codes != theirs).sum() <= 3  # of 256: a gradient near zero takes its sign from the order of a sum


def test_one_step_is_the_sign_step_computed_by_hand_in_float64():
    weight, stats = problem(5, 32)
    tuner = AutoRound(iterations=10)
    tunable = tuner.tunable(weight, grid(bits=3, scale_dtype="float32"), stats)
    offset, low_factor, high_factor = (p for group in tunable.groups() for p in group["params"])
    loss = output_error(weight, tunable.fake_quantized(weight), stats.hessian)
    optimizer = tuner.optimizer(tunable.groups())
    for p, gradient in zip(
        (offset, low_factor, high_factor), torch.autograd.grad(loss, [offset, low_factor, high_factor]), strict=True
    ):
        p.grad = gradient
    optimizer.step()
    tunable.project_()

    w, hessian = weight.double().view(5, 2, 16), stats.hessian.double()
    low, high = w.amin(-1).clamp(max=0), w.amax(-1).clamp(min=0)
    scale = ((high - low) / 7)[..., None]
    zero = torch.round(-low[..., None] / scale)
    value = scale * ((torch.round(w / scale) + zero).clamp(0, 7) - zero)
    slope = (2 * (value - w).view(5, 32) @ hessian).view(5, 2, 16)  # d loss / d value
    clipped = (torch.round(w / scale) + zero < 0) | (torch.round(w / scale) + zero > 7)
    expected = -0.1 * torch.sign(torch.where(clipped, 0, slope))
    assert torch.equal(offset.double(), expected.float().double())
    # d value / d high = (value - w) / scale / 7 inside; outside the zero-point's rounding error / 7, and 1 at the top
    error = torch.where(clipped, -zero - low[..., None] / scale, (value - w) / scale) / 7
    top = (torch.round(w / scale) + zero > 7).double()
    d_high = (slope * (error + top)).sum(-1)
    moved = (1 - 0.1 * torch.sign(d_high * high)).clamp(0, 1)
    assert torch.equal(high_factor.double(), moved.float().double())


def test_factors_and_offsets_stay_in_their_intervals():
    weight, stats = problem(4, 32)
    tunable = AutoRound().tunable(weight, grid(), stats)
    for group in tunable.groups():
        for p in group["params"]:
            p.data.normal_(std=3, generator=torch.Generator().manual_seed(0))
    tunable.project_()
    (offset,), factors = (group["params"] for group in tunable.groups())
    assert offset.abs().max().item() == 0.5
    assert all(f.min() >= 0 and f.max() <= 1 for f in factors)


@pytest.mark.parametrize(
    ("options", "bits", "rates"),
    [
        ({}, 4, [1 / 200, 1 / 200]),
        ({"iterations": 1000}, 2, [2 / 1000, 2 / 1000]),
        ({"iterations": 1000}, 4, [1 / 1000, 1 / 1000]),
        ({"lr": 0.01}, 4, [0.01, 0.01]),
        ({"minmax_lr": 0.02}, 4, [1 / 200, 0.02]),
    ],
)
def test_learning_rates_are_those_of_auto_round(options, bits, rates):
    weight, stats = problem(4, 32)
    groups = AutoRound(**options).tunable(weight, grid(bits), stats).groups()
    assert [group["lr"] for group in groups] == rates


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_tuning_lowers_the_output_error_of_round_to_nearest(bits):
    weight, stats = problem(16, 64)
    ours = tuned(AutoRound(iterations=200), weight, grid(bits), stats).dequantize()
    nearest = RTN().round(weight, grid(bits), stats).weight.dequantize()
    assert output_error(weight, ours, stats.hessian) < 0.9 * output_error(weight, nearest, stats.hessian)


def test_roundings_come_near_the_best_of_all_up_or_down_choices():
    generator = torch.Generator().manual_seed(0)
    weight, stats = torch.randn(8, 8, generator=generator), SiteStats.empty(8)
    stats.update(
        1 + 0.2 * torch.randn(64, 8, generator=generator)
    )  # rounding errors of either sign make up for another
    fixed = grid(bits=3, group_size=None, scale_dtype="float32")
    params = fixed.fit_groups(weight, None).params
    down = torch.floor(weight / params.scale) + params.zero_point
    choices = torch.tensor(list(itertools.product([0, 1], repeat=8)))  # [256, 8]
    codes = (down[:, None] + choices).clamp(0, 7)
    delta = (codes - params.zero_point[..., None]) * params.scale[..., None] - weight[:, None]
    best = ((delta @ stats.hessian) * delta).sum(-1).amin(1).sum()
    # the range's factors stay at 1: the same grid as the enumeration's
    ours = tuned(AutoRound(iterations=200, minmax_lr=1e-9), weight, fixed, stats).dequantize()
    nearest = fixed.nearest(weight, None).dequantize()
    error, start = (output_error(weight, v, stats.hessian) for v in (ours, nearest))
    assert best * (1 - 1e-5) <= error
    assert error - best < 0.1 * (start - best)


def test_kept_weights_are_left_alone_and_do_not_widen_the_range():
    weight, stats = problem(6, 32)
    weight[2, 5] = 40.0
    keep = torch.zeros_like(weight, dtype=torch.bool)
    keep[2, 5] = True
    ours = tuned(AutoRound(iterations=20), weight, grid(), stats, keep=keep)
    assert ours.dequantize()[2, 5] == 40
    assert float(ours.scale.max()) < 1


def test_a_parameter_without_gradient_stays():
    a, b = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    a.grad = torch.tensor([2.0, 0.0, -0.1])
    SignSGD([{"params": [a, b], "lr": 0.5}]).step()
    assert a.tolist() == [0.5, 1.0, 1.5]
    assert b.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": -1}, r"rounding\.iterations=-1: allowed"),
        ({"batch_size": 0}, r"rounding\.batch_size=0: allowed"),
        ({"lr": 0.0}, r"rounding\.lr=0\.0: allowed"),
        ({"minmax_lr": -1.0}, r"rounding\.minmax_lr=-1\.0: allowed"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        AutoRound(**options)
