"""Block-AP: its gradients against automatic differentiation of the paper's equation, its start, and a block's error."""

from dataclasses import replace

import pytest
import torch

from quantbench.formats import NVFP4, IntFormat
from quantbench.methods.grid import Grid
from quantbench.methods.range import MinMax
from quantbench.methods.rounding import RTN, EfficientQAT
from quantbench.models import tune as tuning
from quantbench.models.walk import quantize
from tests.models.test_walk import CPU, load, variant

FAST = EfficientQAT(epochs=8, lr=2e-3, step_lr=1e-3)


def straight(x):
    return x + (torch.round(x) - x).detach()


@pytest.mark.parametrize("bits", [2, 4])
def test_gradients_are_those_of_equations_1_and_2(bits):
    """W_int = clamp(round(W / s) + z, 0, 2^N - 1), W_hat = (W_int - z) s; float64, d round(x) / dx = 1."""
    weight = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    upstream = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
    tunable = EfficientQAT().tunable(weight, Grid(IntFormat(bits, 8, scale_dtype="float32"), MinMax()), None)
    with torch.no_grad():
        tunable.scale.mul_(0.6)  # so that weights are clipped
    parameters = [tunable.latent, tunable.scale, tunable.zero_point]
    actual = torch.autograd.grad((tunable.fake_quantized(weight) * upstream).sum(), parameters)
    latent, scale, zero = (p.detach().double().requires_grad_() for p in parameters)
    s, z = (t[..., None] for t in (scale, zero))
    codes = (straight(latent.view(5, 4, 8) / s) + straight(z)).clamp(0, 2**bits - 1)
    value = ((codes - straight(z)) * s).view(5, 32)
    torch.testing.assert_close(tunable.fake_quantized(weight).double(), value, rtol=1e-5, atol=1e-6)
    expected = torch.autograd.grad((value * upstream.double()).sum(), [latent, scale, zero])
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a.double(), e, rtol=1e-4, atol=1e-4)


def test_training_starts_from_round_to_nearest():
    weight, grid = torch.randn(4, 40, generator=torch.Generator().manual_seed(0)), Grid(IntFormat(3, 16), MinMax())
    nearest, first = (method.round(weight, grid, None).weight for method in (RTN(), EfficientQAT()))
    assert torch.equal(first.codes, nearest.codes)
    assert torch.equal(first.dequantize(), nearest.dequantize())


@pytest.mark.parametrize(("bits", "lr"), [(2, 2e-5), (3, 1e-5)])
def test_rates_are_the_papers(bits, lr):
    rates = EfficientQAT().tunable(torch.randn(4, 16), Grid(IntFormat(bits, 16), MinMax()), None).rates
    assert rates == (lr, 1e-4, 1e-4)


@pytest.mark.parametrize("name", ["llama", "opt", "gemma2"])
@pytest.mark.parametrize("statistics", ["propagate", "fp"])
def test_the_error_of_every_block_falls(name, statistics, monkeypatch):
    model, structure, ids = load(name)
    errors, loop = [], tuning.tune

    def measured(tuned, data, tuner, schedule):
        for _ in ("before", "after"):
            with torch.no_grad():
                errors.append(float(tuned.error(data, data.samples())))
            if len(errors) % 2:
                loop(tuned, data, tuner, schedule)

    monkeypatch.setattr("quantbench.models.solve.tune", measured)
    quantize(model, structure, [variant(FAST, bits=2, statistics=statistics)], ids, device=CPU)
    assert len(errors) == 2 * len(structure.blocks)
    for before, after in zip(errors[::2], errors[1::2], strict=True):
        assert after < 0.8 * before


def test_two_walks_give_the_same_codes():
    model, structure, ids = load("llama")
    first, second = (
        quantize(model, structure, [variant(replace(FAST, epochs=1), bits=3)], ids, device=CPU)[0] for _ in range(2)
    )
    for name, weight in first.weights.items():
        assert torch.equal(weight.codes, second.weights[name].codes)


def test_scales_that_are_stored_together_are_refused():
    point = replace(variant(EfficientQAT()), format=NVFP4())
    with pytest.raises(ValueError, match="rounding=efficientqat learns step sizes, which format=nvfp4 stores together"):
        point.check()


@pytest.mark.parametrize("options", [{"epochs": -1}, {"batch_size": 0}, {"lr": 0.0}, {"step_lr": -1.0}, {"floor": 2}])
def test_wrong_settings_are_named(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"rounding.{name}="):
        EfficientQAT(**options)
