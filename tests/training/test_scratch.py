"""BitNet: BitLinear against the papers' formulas, twins that differ in quantization alone, and the cached model."""

import pytest
import torch

from quantbench.errors import InputError
from quantbench.formats import Binary, Ternary
from quantbench.methods.activation import NoActivation
from quantbench.methods.activation.dynamic import DynamicActivation
from quantbench.methods.allocation import Keep, Uniform
from quantbench.methods.grid import Grid
from quantbench.methods.range import AbsMean, AWQClip
from quantbench.methods.rounding import GPTQ, RTN
from quantbench.methods.rounding.tuner import OwnWeight
from quantbench.methods.training import Scratch
from quantbench.methods.training.weights import Refitted
from quantbench.methods.transform import NoTransform
from quantbench.methods.variant import Variant
from quantbench.models.linear import QuantLinear, read
from quantbench.models.load import WorldModel, identify, load
from quantbench.models.solve import apply_result
from quantbench.models.structure import find_structure
from quantbench.models.walk import quantize
from quantbench.training import checkpoint as checkpoints
from quantbench.training.scratch import ensure_trained, first_model, from_scratch
from tests.models.test_walk import CPU

TINY = WorldModel(
    "float32", "world-tiny", hidden_size=16, intermediate_size=32, num_layers=2, num_heads=2, steps=8, batch_size=2,
    seqlen=32, warmup=2, lr=0.01,
)  # fmt: skip
B158 = Grid(Ternary(group_size=None, per_tensor=True), AbsMean())
B1 = Grid(Binary(group_size=None, per_tensor=True), AbsMean(center=True))
INT8 = DynamicActivation(bits=8)


def bitnet(grid=B158, **changes):
    axes = {"format": grid.format, "range": grid.range, "transform": NoTransform(), "rounding": RTN()}
    axes |= {"allocation": Uniform(), "statistics": "propagate", "activation": INT8, "training": Scratch()}
    return Variant(**axes | changes)


def ternary(weight):
    """BitNet b1.58, eq. 1-3."""
    gamma = weight.abs().mean()
    return (weight / gamma).round().clamp(-1, 1) * gamma


def binary(weight):
    """BitNet, eq. 1-3 and the scale beta of eq. 12."""
    return torch.where(weight - weight.mean() >= 0, 1.0, -1.0) * weight.abs().mean()


def int8(x):
    """Per token, Q_b = 127: BitNet, eq. 4 and 5; BitNet b1.58, section 2."""
    scale = 127 / x.abs().amax(-1, keepdim=True)
    return (x * scale).round().clamp(-127, 127) / scale


@pytest.mark.parametrize(("grid", "formula"), [(B158, ternary), (B1, binary)], ids=["b1.58", "b1"])
def test_bitlinear_and_its_gradients_are_the_papers_formulas(grid, formula):
    """In float64, with the straight-through estimator x + (q(x) - x).detach() of both papers."""
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(24, 32, generator=generator), torch.randn(5, 32, generator=generator).requires_grad_()
    upstream = torch.randn(5, 24, generator=generator)
    latent = Refitted(weight, grid, 1.0)
    y = torch.nn.functional.linear(read(x, INT8.quantizer("q", "attention_in")), latent.value())
    actual = torch.autograd.grad((y * upstream).sum(), [x, latent.latent])
    w64, x64 = weight.double().requires_grad_(), x.detach().double().requires_grad_()
    quantized = [value + (q(value) - value).detach() for q, value in ((int8, x64), (formula, w64))]
    expected = torch.nn.functional.linear(*quantized)
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-5)
    for a, e in zip(actual, torch.autograd.grad((expected * upstream.double()).sum(), [x64, w64]), strict=True):
        torch.testing.assert_close(a.double(), e, rtol=1e-4, atol=1e-4)
    stored = QuantLinear(latent.result(), None, dtype=torch.float32, inputs=INT8.quantizer("q", "attention_in"))
    torch.testing.assert_close(stored(x.detach()).double(), expected.detach(), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def twin():
    ensure_trained(TINY, device=CPU)
    loaded = load(TINY, "auto")
    return loaded, find_structure(loaded.model)


def scratch(twin, variant, path=None):
    loaded, structure = twin
    (walked,) = quantize(loaded.model, structure, [variant], None, device=CPU)
    return from_scratch(TINY, variant, walked, device=CPU, checkpoint=path)


def test_the_twin_is_trained_once_and_loaded_from_then_on(twin, monkeypatch):
    loaded, structure = twin
    assert loaded.identity == identify(TINY)
    assert loaded.identity.revision.startswith("recipe:")
    assert len(structure.blocks) == 2
    monkeypatch.setattr("quantbench.training.scratch._train", None)
    ensure_trained(TINY, device=CPU)
    first = first_model(TINY).state_dict()
    assert any(not torch.equal(value, first[name]) for name, value in loaded.model.state_dict().items())
    other = WorldModel("float32", "world-tiny", seed=1)
    assert identify(other).revision != identify(TINY).revision


@pytest.mark.parametrize("grid", [B158, B1], ids=["b1.58", "b1"])
def test_every_linear_is_quantized_and_everything_else_is_trained(twin, grid):
    loaded, structure = twin
    result = scratch(twin, bitnet(grid))
    assert set(result.weights) == set(result.inputs) == set(structure.linears)
    assert len(result.losses) == TINY.steps
    assert result.losses[-1] < result.losses[0]
    first = first_model(TINY).state_dict()
    assert all(not torch.equal(value, first[name]) for name, value in result.parameters.items())
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    undo = apply_result(loaded.model, result)
    assert loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight
    undo()
    assert all(torch.equal(value, before[name]) for name, value in loaded.model.state_dict().items())


class Plain(OwnWeight):
    """A matrix that trains in full precision."""

    def __init__(self, latent, lr):
        self.latent, self.lr = latent.detach().clone().requires_grad_(), lr

    def groups(self):
        return [{"params": [self.latent], "lr": self.lr}]

    def value(self):
        return self.latent

    def result(self):
        return B158.nearest(self.latent.detach(), None)


def test_without_quantization_the_second_training_is_the_first_one(twin, monkeypatch):
    """So the twins differ in nothing but quantization: the same first weights, text, order and rates."""
    made = []

    def plain(self, latent, grid, lr):
        made.append(Plain(latent, lr))
        return made[-1]

    monkeypatch.setattr(Scratch, "tunable", plain)
    result = scratch(twin, bitnet(activation=NoActivation()))
    state = twin[0].model.state_dict()
    for name, weight in zip(result.weights, made, strict=True):
        torch.testing.assert_close(weight.latent.detach(), state[f"{name}.weight"], rtol=1e-4, atol=1e-5)
    for name, value in result.parameters.items():
        torch.testing.assert_close(value, state[name], rtol=1e-4, atol=1e-5)


class Killed(Exception):
    """Stands for a signal that cannot be caught."""


def test_a_killed_training_goes_on_to_the_same_bits(twin, tmp_path, monkeypatch):
    whole, path = scratch(twin, bitnet()), tmp_path / "run.pt"
    monkeypatch.setattr(checkpoints.Checkpoint, "due", True)
    save = checkpoints.Checkpoint.save

    def save_then_die(self, state):
        save(self, state)
        if len(state["losses"]) == 5:
            raise Killed

    monkeypatch.setattr(checkpoints.Checkpoint, "save", save_then_die)
    with pytest.raises(Killed):
        scratch(twin, bitnet(), path)
    monkeypatch.setattr(checkpoints.Checkpoint, "save", save)
    resumed = scratch(twin, bitnet(), path)
    assert resumed.losses == whole.losses
    assert all(torch.equal(value, whole.parameters[name]) for name, value in resumed.parameters.items())
    assert all(torch.equal(w.codes, whole.weights[name].codes) for name, w in resumed.weights.items())


def test_the_first_weights_do_not_touch_the_random_state():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    first = first_model(TINY)
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first.lm_head.weight, first_model(TINY).lm_head.weight)


@pytest.mark.parametrize("changes", [{"rounding": GPTQ()}, {"allocation": Keep()}, {"range": AWQClip()}])
def test_what_looks_at_data_or_keeps_weights_is_refused(changes):
    with pytest.raises(ValueError, match="training=scratch"):
        bitnet(**changes).check()


def test_models_whose_training_is_not_known_are_refused(capsys):
    from quantbench.__main__ import main

    assert main(["method=bitnet_b158", "logger=none"]) == 2
    assert "training=scratch repeats" in capsys.readouterr().err


def test_a_model_that_is_not_trained_yet_is_said_to_be_missing():
    with pytest.raises(InputError, match="no config"):
        load(WorldModel("float32", seed=7), "auto")


@pytest.mark.parametrize("options", [{"hidden_size": 30}, {"steps": 0}, {"lr": -1.0}, {"decay": 0.0}, {"warmup": 301}])
def test_wrong_settings_are_named(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"model.{name}="):
        WorldModel(**options)
