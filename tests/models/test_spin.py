"""Learned rotations: the loss that is lowered is that of the rotated, quantized network."""

from functools import partial

import pytest
import torch

from quantbench.formats import IntFormat
from quantbench.methods.activation import DynamicActivation
from quantbench.methods.allocation import Uniform
from quantbench.methods.kv_cache import KVCache, NoKVCache, PerToken
from quantbench.methods.range import MinMax
from quantbench.methods.rounding import KeepFullPrecision
from quantbench.methods.transform import SpinQuant
from quantbench.methods.variant import Variant
from quantbench.models.basis import Turn
from quantbench.models.rotate import rotate_
from quantbench.models.solve import apply_result
from quantbench.models.spin import learn_turn
from quantbench.models.structure import find_structure
from quantbench.models.walk import quantize
from tests.models import tiny
from tests.models.test_rotate import SUPPORTED, difference, load, logits

IDS = torch.randint(3, tiny.VOCABULARY, (4, 24), generator=torch.Generator().manual_seed(1))


def variant_of(rotation: SpinQuant, kv_cache: KVCache | None = None) -> Variant:
    kv_cache = kv_cache or NoKVCache()
    activation, weights = DynamicActivation(bits=3), KeepFullPrecision()
    return Variant(IntFormat(), MinMax(), rotation, weights, Uniform(), "propagate", activation, kv_cache)


def loss(model, ids) -> float:
    with torch.no_grad():
        scores = model(ids).logits[:, :-1].flatten(0, 1).float()
    return float(torch.nn.functional.cross_entropy(scores, ids[:, 1:].flatten()))


def quantized_loss(model, variant) -> float:
    """Of the model as it would be run."""
    structure = find_structure(model)
    result = quantize(model, structure, [variant], IDS, device=torch.device("cpu"))[0]
    undo = apply_result(model, result)
    found = loss(model, IDS)
    undo()
    return found


def random_turn(structure, basis) -> Turn:
    generator = torch.Generator().manual_seed(5)

    def orthogonal(size):
        return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]

    return Turn(orthogonal(basis.stream.size), tuple(None if h is None else orthogonal(h.size) for h in basis.heads))


@pytest.mark.parametrize("name", SUPPORTED)
def test_a_turned_model_computes_the_same(name):
    model, structure = load(name)
    expected = logits(model)
    rotate_(model, structure, SpinQuant(), random_turn)
    assert difference(logits(model), expected) < 1e-5


@pytest.mark.parametrize("kv_cache", [NoKVCache(), PerToken(bits=3, rotate=True)], ids=["activations", "and-kv"])
@pytest.mark.parametrize("heads", [4, 3])  # a Hadamard matrix mixes 4 heads; 3 are rotated channel by channel
def test_the_loss_is_that_of_the_rotated_quantized_network(heads, kv_cache):
    """Learning sees, in a basis of its own, what the rewritten model computes: the first loss is that of no turn."""
    changes = {"num_attention_heads": heads, "num_key_value_heads": 1, "head_dim": 8, "hidden_size": 8 * heads}
    model, structure = load("llama", **changes)
    rotation = SpinQuant(steps=1, batch_size=4)
    seen = []

    def learn(structure, basis):
        turn = learn_turn(model, rotation, variant_of(rotation, kv_cache), IDS, structure, basis)
        seen.append(float(turn.notes[0].split("loss ")[1].split()[0]))
        identity = Turn(torch.eye(basis.stream.size).double(), tuple(torch.eye(h.size).double() for h in basis.heads))
        return identity

    rotate_(model, structure, rotation, learn)
    assert seen[0] == pytest.approx(quantized_loss(model, variant_of(rotation, kv_cache)), abs=2e-4)


@pytest.mark.parametrize("name", ["llama", "phi3-gqa"])
def test_learning_lowers_the_loss_of_the_quantized_network_and_stays_orthogonal(name):
    turns, losses = [], []
    for steps in (0, 40):
        model, structure = load(name)
        rotation = SpinQuant(steps=steps, batch_size=4, lr=0.3)
        learn = partial(learn_turn, model, rotation, variant_of(rotation), IDS)
        rotate_(model, structure, rotation, lambda *found, learn=learn: turns.append(learn(*found)) or turns[-1])
        losses.append(quantized_loss(model, variant_of(rotation)))
    assert losses[1] < losses[0] - 0.03
    for matrix in (turns[1].stream, *turns[1].heads):
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(len(matrix)).double(), rtol=0, atol=1e-6)
        assert (matrix - torch.eye(len(matrix))).abs().max() > 1e-3
    assert "learned in 40 steps" in turns[1].notes[0]


def test_the_model_is_left_as_it_was_and_the_seed_decides():
    turns = []
    for seed in (0, 0, 1):
        model, structure = load("llama")
        rotation = SpinQuant(steps=3, batch_size=2, seed=seed)
        before = {}

        def learn(structure, basis, model=model, rotation=rotation, before=before):
            before |= {key: value.clone() for key, value in model.state_dict().items()}
            turn = learn_turn(model, rotation, variant_of(rotation), IDS, structure, basis)
            assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
            assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
            return turn

        rotate_(model, structure, rotation, learn)
        turns.append(model.state_dict()["model.layers.0.mlp.up_proj.weight"])
    assert torch.equal(turns[0], turns[1])
    assert not torch.allclose(turns[0], turns[2], atol=1e-3)
