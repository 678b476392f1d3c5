"""Quantized attention in one pass against decoding token by token with a cache that really quantizes what it holds."""

import copy
from types import SimpleNamespace

import pytest
import torch
from transformers.cache_utils import Cache, DynamicLayer, StaticCache

from quantbench.formats import IntFormat
from quantbench.methods.allocation import Uniform
from quantbench.methods.grid import Grid
from quantbench.methods.kv_cache import KIVI, NoKVCache, PerToken
from quantbench.methods.range import MinMax
from quantbench.methods.rounding import GPTAQ, GPTQ, KeepFullPrecision
from quantbench.methods.stats import SiteStats
from quantbench.methods.transform import NoTransform
from quantbench.methods.transform.hadamard_matrix import hadamard_matrix
from quantbench.methods.variant import Variant
from quantbench.models import attention
from quantbench.models.attention import remove_caches_, set_caches_
from quantbench.models.canonical import canonicalise_
from quantbench.models.solve import apply_result
from quantbench.models.structure import find_structure
from quantbench.models.walk import quantize
from tests.models import tiny
from tests.models.test_walk import inputs_of

CACHES = {
    "int8": PerToken(bits=8),
    "int4-groups": PerToken(bits=4, group_size=4, clip=0.9),
    "int3-symmetric-window": PerToken(bits=3, symmetric=True, residual_length=5),
    "kivi2": KIVI(bits=2, group_size=4, residual_length=4),
    "kivi3-rotated": KIVI(bits=3, group_size=4, residual_length=8, rotate=True),
    "int4-rotated": PerToken(bits=4, clip=0.95, rotate=True, rotate_values=True),
}
LENGTH = 21


def load(name):
    model = tiny.build(name)
    canonicalise_(model)
    model.double()  # so that no code depends on the order of a sum
    structure = find_structure(model)
    names = [f"{block.name}.{block.attention}" for block in structure.blocks]
    ids = torch.randint(3, tiny.VOCABULARY, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    return model, names, ids


def uniform(x, bits, *, clip, symmetric, real):
    """Round to nearest of x [..., n]: a range, a step and a zero-point for the last dimension."""
    x = x.float()
    low, high = x.min(-1, keepdim=True).values, x.max(-1, keepdim=True).values
    if not real:
        low, high = low.clamp(max=0) * clip, high.clamp(min=0) * clip
    if symmetric:
        high = torch.maximum(-low, high)
        low = -high
    step = (
        ((high - low) / (2**bits - (2 if symmetric else 1))).half().float()
    )  # symmetric codes are as far on each side
    zero = torch.full_like(step, 2 ** (bits - 1)) if symmetric else -low / step
    zero = zero.half().float() if real else zero.round().clamp(0, 2**bits - 1)
    code = (x / step + zero).round() if real else (x / step).round() + zero
    return (code.clamp(1 if symmetric else 0, 2**bits - 1) - zero) * step


class QuantizingLayer(DynamicLayer):
    """Holds the tokens that are quantized for good, and the newest ones as they came."""

    def __init__(self, scheme):
        super().__init__()
        self.scheme, self.done = scheme, SimpleNamespace(keys=[], values=[])
        self.recent = SimpleNamespace(keys=[], values=[])

    def update(self, key_states, value_states, *args, **kwargs):
        assert key_states.shape[2] == 1, "one token at a time"
        scheme, done, recent = self.scheme, self.done, self.recent
        recent.keys.append(key_states), recent.values.append(value_states)
        if isinstance(scheme, KIVI):
            if len(recent.keys) == scheme.residual_length:
                for start in range(0, scheme.residual_length, scheme.group_size):
                    group = torch.cat(recent.keys[start : start + scheme.group_size], 2)
                    done.keys.append(self.stored(group.transpose(2, 3), scheme.rotate, channels=3).transpose(2, 3))
                recent.keys.clear()
        elif len(recent.keys) > scheme.residual_length:
            done.keys.append(self.stored(recent.keys.pop(0), scheme.rotate))
        if len(recent.values) > scheme.residual_length:
            done.values.append(self.stored(recent.values.pop(0), scheme.rotate_values))
        self.keys, self.values = torch.cat(done.keys + recent.keys, 2), torch.cat(done.values + recent.values, 2)
        self.is_initialized = True
        return self.keys, self.values

    def stored(self, x, rotate, channels=None):
        scheme = self.scheme
        turn = hadamard_matrix(x.shape[2 if channels else 3])
        turn = turn / len(turn) ** 0.5
        if rotate:
            x = (x.transpose(2, 3) @ turn).transpose(2, 3) if channels else x @ turn
        groups = x.unflatten(-1, (-1, scheme.group_size or x.shape[-1]))
        real = scheme.real_zero_point
        x = uniform(groups, scheme.bits, clip=scheme.clip, symmetric=scheme.symmetric, real=real).flatten(-2).double()
        if rotate:
            x = (x.transpose(2, 3) @ turn.T).transpose(2, 3) if channels else x @ turn.T
        return x


@torch.no_grad()
def decoded(model, ids, scheme):
    """Logits of each token from decoding with an explicit cache."""
    layers = [QuantizingLayer(scheme) for _ in range(model.config.num_hidden_layers)]
    cache = Cache(layers=layers)
    steps = [
        model(input_ids=ids[:, i : i + 1], past_key_values=cache, use_cache=True).logits for i in range(ids.shape[1])
    ]
    return torch.cat(steps, 1)


@pytest.mark.parametrize(
    ("name", "label"),
    [("llama", label) for label in CACHES]
    + [(name, label) for name in tiny.CONFIGS if name != "llama" for label in ("int4-groups", "kivi3-rotated")],
)
@torch.no_grad()
def test_one_pass_gives_what_decoding_with_a_quantized_cache_gives(name, label):
    model, names, ids = load(name)
    scheme = CACHES[label]
    plain, expected = model(ids).logits, decoded(model, ids, scheme)
    set_caches_(model, dict.fromkeys(names, scheme))
    found = model(ids).logits
    steps, cache = [], None
    for start, stop in ((0, 7), (7, 8), (8, 9), (9, 15), (15, 21)):
        output = model(ids[:, start:stop], past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        steps.append(output.logits)
    remove_caches_(model)
    assert torch.equal(model(ids).logits, plain), "undone"
    assert (expected - plain).abs().max() > 0.005 * plain.std(), "the cache must matter"
    close = {"rtol": 0, "atol": 1e-6 * float(plain.abs().max())}
    torch.testing.assert_close(found, expected, **close)
    torch.testing.assert_close(torch.cat(steps, 1), expected, **close)


SCHEMES = [PerToken(bits=4, group_size=4), KIVI(bits=3, group_size=4, residual_length=8)]


@pytest.mark.parametrize("scheme", SCHEMES, ids=["int4", "kivi3"])
@pytest.mark.parametrize("name", ["gemma3", "gpt-neox", "opt"])
@torch.no_grad()
def test_prompts_padded_to_one_batch_generate_what_each_generates_alone(name, scheme):
    model, names, ids = load(name)
    set_caches_(model, dict.fromkeys(names, scheme))
    options = {"max_new_tokens": 11, "do_sample": False, "eos_token_id": None}
    options |= {"return_dict_in_generate": True, "output_logits": True}
    prompts = [ids[0, :17], ids[1, :6], ids[1, :12]]
    padded = torch.stack([torch.cat([torch.zeros(17 - len(p), dtype=torch.long), p]) for p in prompts])
    mask = torch.stack([torch.arange(17) >= 17 - len(p) for p in prompts]).long()
    together = model.generate(padded, attention_mask=mask, **options)
    for row, prompt in enumerate(prompts):
        alone = model.generate(prompt[None], attention_mask=torch.ones(1, len(prompt)).long(), **options)
        text = alone.sequences[0]
        assert torch.equal(text[len(prompt) :], together.sequences[row, 17:])
        one_pass = model(text[None]).logits[0, len(prompt) - 1 : -1]
        close = {"rtol": 0, "atol": 1e-5 * float(one_pass.abs().max())}
        torch.testing.assert_close(torch.cat(alone.logits).double(), one_pass, **close)
        torch.testing.assert_close(torch.stack([step[row] for step in together.logits]).double(), one_pass, **close)


@torch.no_grad()
def test_a_copy_of_a_model_can_be_freed_of_its_caches_without_touching_the_model():
    model, names, ids = load("mistral")
    before = model(ids).logits
    set_caches_(model, dict.fromkeys(names, KIVI(group_size=4, residual_length=4)))
    quantized, twin = model(ids).logits, copy.deepcopy(model)
    assert torch.equal(twin(ids).logits, quantized)
    remove_caches_(twin)
    assert torch.equal(twin(ids).logits, before)
    assert torch.equal(model(ids).logits, quantized)
    cached = twin(ids, use_cache=True).past_key_values
    assert cached.layers[0].keys.shape[2] == model.config.sliding_window - 1, "the hook is gone as well"


@torch.no_grad()
def test_a_cache_of_fixed_size_is_refused_where_the_newest_tokens_are_kept():
    model, names, ids = load("llama")
    set_caches_(model, dict.fromkeys(names, PerToken(residual_length=3)))
    cache = StaticCache(model.config, max_cache_len=40)
    with pytest.raises(ValueError, match=r"kv_cache\.residual_length: .* only with a cache that grows"):
        model(ids, past_key_values=cache)


def test_gradients_pass_the_rounding_as_if_it_were_not_there():
    model, names, ids = load("llama")
    projection = model.model.layers[0].self_attn.k_proj.weight.requires_grad_()
    model(ids).logits.square().mean().backward()
    expected, projection.grad = projection.grad, None
    for scheme in (
        PerToken(bits=8, residual_length=3),
        PerToken(bits=8),
        KIVI(bits=8, group_size=4, residual_length=8),
    ):
        set_caches_(model, dict.fromkeys(names, scheme))
        model(ids).logits.square().mean().backward()
        remove_caches_(model)
        assert (projection.grad - expected).norm() < 0.1 * expected.norm()
        projection.grad = None


@torch.no_grad()
def test_queries_computed_in_pieces_give_the_same(monkeypatch):
    model, names, ids = load("qwen2")
    set_caches_(model, dict.fromkeys(names, KIVI(bits=3, group_size=4, residual_length=8)))
    whole = model(ids).logits
    monkeypatch.setattr(attention, "_QUERIES", 5)
    torch.testing.assert_close(model(ids).logits, whole, rtol=0, atol=1e-9)


def test_attention_that_does_not_use_the_interface_is_not_found():
    model, _, _ = load("llama")

    class Own(type(model.model.layers[0].self_attn)):
        def forward(self, hidden_states, **kwargs):
            return self.o_proj(self.q_proj(hidden_states) + 0 * self.v_proj(self.k_proj(hidden_states)).sum()), None

    for block in model.model.layers:
        block.self_attn.__class__ = Own
        block.self_attn.v_proj = torch.nn.Linear(16, 16).double()
    structure = find_structure(model)
    assert [block.attention for block in structure.blocks] == [None] * 3


def variant(rounding, cache, statistics="propagate"):
    weights = IntFormat(bits=4, group_size=16)
    return Variant(weights, MinMax(), NoTransform(), rounding, Uniform(), statistics, kv_cache=cache)


@torch.no_grad()
def test_statistics_of_the_quantized_prefix_are_of_blocks_that_attend_to_their_caches():
    model, names, ids = load("llama")
    structure, cache = find_structure(model.float()), PerToken(bits=2)
    linear, before = f"{structure.blocks[-1].name}.self_attn.q_proj", model(ids).logits
    weight, grid = model.get_submodule(linear).weight.detach(), Grid(variant(GPTQ(), cache).format, MinMax())
    variants = [variant(GPTQ(), cache), variant(GPTQ(), NoKVCache()), variant(KeepFullPrecision(), cache)]
    results = quantize(model, structure, variants, ids, device=torch.device("cpu"))
    assert torch.equal(model(ids).logits, before), "the walk must not touch the model"
    assert [result.caches for result in results] == [dict.fromkeys(names, cache), {}, dict.fromkeys(names, cache)]
    for result in results[:2]:
        undo = apply_result(model, result)
        stats = inputs_of(model, ids, [linear])[linear]
        undo()
        alone = GPTQ().round(weight, grid, stats).weight.codes
        assert (alone == result.weights[linear].codes).float().mean() > 0.995
    assert (results[0].weights[linear].codes != results[1].weights[linear].codes).float().mean() > 0.02
    assert torch.equal(model(ids).logits, before), "undone"


@torch.no_grad()
def test_pairs_with_full_precision_come_from_blocks_without_caches(monkeypatch):
    model, _, ids = load("llama")
    structure, seen = find_structure(model.float()), []
    original = SiteStats.add

    def watched(self, x, full=None):
        seen.append((x, full))
        original(self, x, full)

    monkeypatch.setattr(SiteStats, "add", watched)
    rounding = GPTAQ(true_sequential=True)
    quantize(model, structure, [variant(rounding, PerToken(bits=2))], ids, device=torch.device("cpu"))
    names = [name for name in structure.blocks[0].linears if name in ("self_attn.q_proj", "self_attn.o_proj")]
    inputs, full = {}, structure.blocks[0].module
    for name in names:
        full.get_submodule(name).register_forward_pre_hook(lambda m, args, name=name: inputs.update({name: args[0]}))
    model(ids)
    assert any(torch.equal(pair, inputs["self_attn.o_proj"]) for _, pair in seen if pair is not None)
    assert not any(torch.equal(x, inputs["self_attn.o_proj"]) for x, _ in seen)
