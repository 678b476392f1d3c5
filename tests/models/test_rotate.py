"""A rotated model computes the same function on a rotated residual stream, or is refused by name."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantbench.errors import InputError
from quantbench.formats import IntFormat
from quantbench.methods.allocation import Uniform
from quantbench.methods.range import MinMax
from quantbench.methods.rounding import GPTQ
from quantbench.methods.transform import Hadamard, RandomRotation
from quantbench.methods.variant import Variant
from quantbench.models.canonical import canonicalise_
from quantbench.models.rotate import rotate_
from quantbench.models.solve import apply_result
from quantbench.models.structure import Structure, find_structure
from quantbench.models.walk import quantize
from tests.models import tiny

REFUSED = {
    "gemma2": r"Gemma2ForCausalLM .*layers\.0\.post_attention_layernorm normalizes what is added",
    "gemma3": r"Gemma3ForCausalLM .*layers\.0\.post_attention_layernorm normalizes what is added",
    "opt-350m": "OPTForCausalLM .*an embedding has 16 channels and the residual stream 32",
}
SUPPORTED = [name for name in tiny.CONFIGS if name not in REFUSED]
ROTATIONS = [Hadamard(), RandomRotation(block_size=8, heads=False)]


def load(name: str, **changes: Any) -> tuple[Any, Structure]:
    model = tiny.build(name, **changes)
    canonicalise_(model)
    return model, find_structure(model)


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model(tiny.token_ids()).logits.float()


def difference(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("rotation", ROTATIONS, ids=["hadamard", "random-blocks"])
@pytest.mark.parametrize("name", SUPPORTED)
def test_logits_are_unchanged_and_every_weight_moved(name, rotation):
    model, structure = load(name)
    expected = logits(model)
    before = {f"{b.name}.{n}": b.module.get_submodule(n).weight.clone() for b in structure.blocks for n in b.linears}
    rotate_(model, structure, rotation)
    assert difference(logits(model), expected) < 1e-5
    for linear, weight in before.items():
        assert (model.get_submodule(linear).weight - weight).abs().max() > 0.05, linear
    rotated = find_structure(model)
    roles = [[(site.name, site.role, site.fold is None) for site in block.sites] for block in structure.blocks]
    assert [[(site.name, site.role, site.fold is None) for site in block.sites] for block in rotated.blocks] == roles


@pytest.mark.parametrize("name", REFUSED)
def test_models_that_cannot_be_rotated_are_refused_by_name_and_left_alone(name):
    model, structure = load(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(InputError, match=REFUSED[name]) as refusal:
        rotate_(model, structure, Hadamard())
    assert "allowed are" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_what_the_parts_do_not_show_the_logits_do():
    """XGLM adds fixed positions that no module holds as a weight, so each block can be rotated and the whole cannot."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("xglm", vocab_size=tiny.VOCABULARY, **sizes))
    tiny.randomise_(model.eval().requires_grad_(False))
    with pytest.raises(InputError, match="XGLMForCausalLM cannot be rotated: its logits change by"):
        rotate_(model, find_structure(model), Hadamard())


@pytest.mark.parametrize("name", ["llama", "qwen3-moe", "gpt2", "gpt-neox"])
@torch.no_grad()
def test_the_residual_stream_is_the_rotated_one(name):
    """h Q for Q drawn by hand from the seed; where LayerNorms take the mean out, (h - mean h) Q."""
    model, structure = load(name)
    ids, rotation = tiny.token_ids(), Hadamard(seed=7)
    expected = model(ids, output_hidden_states=True).hidden_states[:-1]
    rotate_(model, structure, rotation)
    q = rotation.matrix(32, 32, torch.Generator().manual_seed(7)).float()
    for actual, hidden in zip(model(ids, output_hidden_states=True).hidden_states[:-1], expected, strict=True):
        centred = hidden - hidden.mean(-1, keepdim=True) if name.startswith("gpt") else hidden
        torch.testing.assert_close(actual, centred @ q, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("heads", [True, False])
@torch.no_grad()
def test_values_are_rotated_within_each_head_or_not_at_all(heads):
    model, structure = load("llama")
    seen: list[Tensor] = []
    value = structure.blocks[1].module.get_submodule("self_attn.v_proj")
    value.register_forward_hook(lambda _, __, output: seen.append(output))
    logits(model)
    rotation = Hadamard(heads=heads, random_signs=False)
    rotate_(model, structure, rotation)
    seen = seen[:1]
    logits(model)
    r = rotation.matrix(8, 8, torch.Generator()).float() if heads else torch.eye(8)
    torch.testing.assert_close(seen[1].unflatten(-1, (2, 8)), seen[0].unflatten(-1, (2, 8)) @ r, rtol=1e-4, atol=1e-5)


# GPT-2's head also gets the bias of the last norm, and its seven norms lose theirs.
@pytest.mark.parametrize(("name", "biases"), [("llama", 0), ("gpt2", tiny.VOCABULARY - 7 * 32)])
def test_a_tied_output_embedding_gets_a_matrix_of_its_own(name, biases):
    model, structure = load(name, tie_word_embeddings=True)
    expected, parameters = logits(model), sum(p.numel() for p in model.parameters())
    notes = rotate_(model, structure, RandomRotation())
    assert difference(logits(model), expected) < 1e-5
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight
    assert sum(p.numel() for p in model.parameters()) == parameters + tiny.VOCABULARY * 32 + biases
    assert not model.config.tie_word_embeddings
    assert any("no longer shares" in note for note in notes)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["llama", "opt", "qwen3"])
def test_in_16_bits_the_rewrite_costs_no_more_than_the_dtype_does(name, dtype):
    model, structure = load(name)
    exact = logits(model)
    model.to(dtype)
    rounded = difference(logits(model), exact)
    rotate_(model, structure, Hadamard())
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert difference(logits(model), exact) < 3 * rounded


@pytest.mark.parametrize("name", SUPPORTED)
def test_a_rotated_model_is_quantized_in_the_walk(name):
    model, structure = load(name)
    expected = logits(model)
    rotation = Hadamard()
    rotate_(model, structure, rotation)
    structure = find_structure(model)
    variant = Variant(IntFormat(bits=8, group_size=16), MinMax(), rotation, GPTQ(), Uniform(), "propagate")
    ids = torch.randint(3, tiny.VOCABULARY, (7, 24), generator=torch.Generator().manual_seed(1))
    result = quantize(model, structure, [variant], ids, device=torch.device("cpu"))[0]
    apply_result(model, result)
    assert set(result.weights) == {f"{b.name}.{linear}" for b in structure.blocks for linear in b.linears}
    assert 0 < (logits(model) - expected).square().mean() / expected.var() < 1e-2


# Gaussian weights times signs are Gaussian, of kurtosis 3; times a Gaussian row of the rotation it is 9.
@pytest.mark.parametrize(("rotation", "limit"), [(Hadamard(), 4), (RandomRotation(), 10)], ids=["hadamard", "random"])
def test_an_outlier_channel_is_spread_over_all(rotation, limit):
    """Folding the gain leaves the outlier in one column; the rotation keeps the norm and lowers peak and kurtosis."""
    model, structure = load("llama")
    block = structure.blocks[0].module
    gain, linear = block.input_layernorm.weight, block.self_attn.q_proj
    gain[5] = 40.0
    folded = (linear.weight * gain).clone()
    rotate_(model, structure, rotation)
    torch.testing.assert_close(linear.weight.norm(), folded.norm())
    assert linear.weight.abs().max() < folded.abs().max() / 2
    assert kurtosis(folded) > 20
    assert kurtosis(linear.weight) < limit
    assert torch.equal(gain, torch.ones(32))


def kurtosis(x: Tensor) -> float:
    centred = x - x.mean()
    return float(centred.pow(4).mean() / centred.square().mean().square())


def test_a_block_that_does_not_divide_the_stream_is_refused():
    model, structure = load("llama")
    with pytest.raises(InputError, match=r"LlamaForCausalLM: transform\.block_size=12: allowed are divisors of 32"):
        rotate_(model, structure, Hadamard(block_size=12))
