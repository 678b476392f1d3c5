"""The walk against plain hooks on the whole model: what each linear saw, and what quantizing it alone gives."""

from dataclasses import replace

import pytest
import torch

from quantbench.errors import QuantizationError
from quantbench.formats import IntFormat
from quantbench.methods.allocation import Keep, Uniform
from quantbench.methods.grid import Grid
from quantbench.methods.range import AWQClip, MinMax
from quantbench.methods.rounding import GPTQ, RTN
from quantbench.methods.stats import SiteStats
from quantbench.methods.transform import AWQ, NoTransform
from quantbench.methods.variant import Variant
from quantbench.models import paused, walk
from quantbench.models.canonical import canonicalise_
from quantbench.models.solve import apply_result
from quantbench.models.structure import find_structure
from quantbench.models.walk import quantize, quantize_each
from tests.models import tiny

CPU = torch.device("cpu")
FORMAT = IntFormat(bits=4, group_size=16)


def variant(rounding=None, *, transform=None, range_=None, bits=4, statistics="propagate", skip=()):
    return Variant(
        IntFormat(bits=bits, group_size=16),
        range_ or MinMax(),
        transform or NoTransform(),
        rounding or RTN(),
        Uniform(skip=list(skip)),
        statistics,
    )


VARIANTS = {
    "rtn": variant(),
    "gptq-propagate": variant(GPTQ()),
    "gptq-fp": variant(GPTQ(act_order=True), statistics="fp"),
    "gptq-true_sequential": variant(GPTQ(true_sequential=True)),
    "awq": variant(transform=AWQ(), range_=AWQClip(), statistics="fp"),
    "awq-few-batches": variant(transform=AWQ(search_batches=1, n_grid=4), statistics="fp"),
    "awq_gptq": variant(GPTQ(), transform=AWQ(n_grid=4, tie_heads=True)),
}


def load(name):
    model = tiny.build(name)
    canonicalise_(model)
    ids = torch.randint(3, tiny.VOCABULARY, (7, 24), generator=torch.Generator().manual_seed(1))
    return model, find_structure(model), ids


def inputs_of(model, ids, names):
    """Statistics of the inputs of linears, from hooks on a whole forward pass."""
    stats, handles = {}, []
    for name in names:
        linear = model.get_submodule(name)
        stats[name] = SiteStats.empty(linear.in_features)
        hook = lambda module, args, stats=stats[name]: stats.update(args[0])  # noqa: E731
        handles.append(linear.register_forward_pre_hook(hook))
    with torch.no_grad():
        model(input_ids=ids, use_cache=False)
    for handle in handles:
        handle.remove()
    return stats


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_eight_bits_change_little_and_undo_restores_exactly(name):
    model, structure, ids = load(name)
    with torch.no_grad():
        before = model(ids).logits
        result = quantize(model, structure, [variant(transform=AWQ(n_grid=3), bits=8)], ids, device=CPU)[0]
        assert torch.equal(model(ids).logits, before), "the walk must not touch the model"
        undo = apply_result(model, result)
        error = (model(ids).logits - before).square().mean() / before.var()
        undo()
        assert torch.equal(model(ids).logits, before)
    assert 0 < error < 1e-2  # 4 bits give 5e-2; a flipped expert of a router counts most
    assert set(result.weights) == {f"{b.name}.{linear}" for b in structure.blocks for linear in b.linears}


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "qwen3-moe"])
def test_fp_statistics_are_those_of_the_full_precision_model(name):
    model, structure, ids = load(name)
    result = quantize(model, structure, [variant(GPTQ(), statistics="fp")], ids, device=CPU)[0]
    for linear, stats in inputs_of(model, ids, result.weights).items():
        alone = GPTQ().round(model.get_submodule(linear).weight.detach().float(), Grid(FORMAT, MinMax()), stats)
        same = (alone.weight.codes == result.weights[linear].codes).float().mean()
        assert same > 0.995, linear  # batches are summed in another order; a weight on a code's edge may differ


@pytest.mark.parametrize("name", ["llama", "gpt-neox"])
def test_propagated_statistics_are_those_of_the_quantized_prefix(name):
    model, structure, ids = load(name)
    result = quantize(model, structure, [variant(GPTQ())], ids, device=CPU)[0]
    last = structure.blocks[-1]
    weights = {f"{last.name}.{n}": model.get_submodule(f"{last.name}.{n}").weight.detach() for n in last.linears}
    prefix = {k: v for k, v in result.weights.items() if k not in weights}
    for linear, quantized in prefix.items():
        model.get_submodule(linear).weight.data = quantized.dequantize()
    for linear, stats in inputs_of(model, ids, weights).items():
        alone = GPTQ().round(weights[linear].float(), Grid(FORMAT, MinMax()), stats)
        assert (alone.weight.codes == result.weights[linear].codes).float().mean() > 0.995, linear


def test_true_sequential_calibrates_on_quantized_earlier_layers_of_the_block():
    model, structure, ids = load("llama")
    result = quantize(model, structure, [variant(GPTQ(true_sequential=True))], ids, device=CPU)[0]
    down = f"{structure.blocks[-1].name}.mlp.down_proj"
    for linear, quantized in result.weights.items():
        if linear != down:
            model.get_submodule(linear).weight.data = quantized.dequantize()
    stats = inputs_of(model, ids, [down])[down]
    alone = GPTQ().round(model.get_submodule(down).weight.detach(), Grid(FORMAT, MinMax()), stats)
    assert (alone.weight.codes == result.weights[down].codes).float().mean() > 0.995


@pytest.mark.parametrize("name", ["llama", "qwen3-moe", "gemma3"])
def test_true_sequential_in_one_pass_equals_a_pass_for_each_step(name, monkeypatch):
    model, structure, ids = load(name)
    one = variant(GPTQ(true_sequential=True))
    monkeypatch.setattr(walk, "BATCH_TOKENS", 24)
    fast = quantize(model, structure, [one], ids, device=CPU)[0]
    monkeypatch.setattr(paused, "free_memory", lambda device: 0)
    slow = quantize(model, structure, [one], ids, device=CPU)[0]
    assert fast.weights.keys() == slow.weights.keys()
    for linear, quantized in slow.weights.items():
        assert torch.equal(quantized.codes, fast.weights[linear].codes), linear
        assert torch.equal(quantized.scale, fast.weights[linear].scale), linear


def test_an_error_while_batches_wait_leaves_the_model_usable():
    model, structure, ids = load("llama")
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(QuantizationError, match=r"layers\.1\.mlp\.up_proj: the weights hold NaN"):
        quantize(model, structure, [variant(GPTQ(true_sequential=True))], ids, device=CPU)
    assert model(ids[:1]).logits.shape[-1] == tiny.VOCABULARY


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_variants_in_one_walk_equal_each_alone_bit_for_bit(name):
    model, structure, ids = load(name)
    together = quantize(model, structure, list(VARIANTS.values()), ids, device=CPU)
    for label, one, result in zip(VARIANTS, VARIANTS.values(), together, strict=True):
        alone = quantize(model, structure, [one], ids, device=CPU)[0]
        for linear, quantized in alone.weights.items():
            assert torch.equal(quantized.codes, result.weights[linear].codes), (label, linear)
            assert torch.equal(quantized.scale, result.weights[linear].scale), (label, linear)
        assert alone.parameters.keys() == result.parameters.keys()
        assert all(torch.equal(v, result.parameters[k]) for k, v in alone.parameters.items())


def test_bf16_model_is_quantized_from_its_own_weights():
    model, structure, _ = load("llama")
    model.bfloat16()
    result = quantize(model, structure, [variant(bits=8)], None, device=CPU)[0]
    name = next(iter(result.weights))
    weight = model.get_submodule(name).weight.float()
    assert (result.weights[name].dequantize() - weight).abs().max() < weight.abs().max() / 100


def test_skipped_linears_stay_in_full_precision():
    model, structure, _ = load("llama")
    result = quantize(model, structure, [variant(skip=["down_proj", "*.0.*"])], None, device=CPU)[0]
    assert result.weights
    assert not [name for name in result.weights if name.endswith("down_proj") or ".0." in name]


def test_skipped_linears_of_a_scaled_site_still_compute_the_same_function():
    model, structure, ids = load("llama")
    one = variant(transform=AWQ(n_grid=4), bits=8, skip=["q_proj", "up_proj"])
    with torch.no_grad():
        before = model(ids).logits
        apply_result(model, quantize(model, structure, [one], ids, device=CPU)[0])
        error = (model(ids).logits - before).square().mean() / before.var()
    assert error < 1e-2


@pytest.mark.parametrize("rounding", [RTN(), GPTQ()], ids=["rtn", "gptq"])
def test_weights_to_keep_are_chosen_in_each_linear_by_itself(rounding):
    model, structure, ids = load("llama")
    one = replace(variant(rounding, statistics="fp"), allocation=Keep(criterion="activation", fraction=0.03))
    result = quantize(model, structure, [one], ids, device=CPU)[0]
    for name, stats in inputs_of(model, ids, result.weights).items():
        weight = model.get_submodule(name).weight.detach()
        mask = Keep(criterion="activation", fraction=0.03).keep(weight, Grid(FORMAT, MinMax()), stats).mask
        assert result.weights[name].outliers.index.tolist() == mask.flatten().nonzero()[:, 0].tolist(), name


def test_nan_weight_stops_the_run_and_names_the_layer():
    model, structure, _ = load("llama")
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(QuantizationError, match=r"layers\.1\.mlp\.up_proj: the weights hold NaN"):
        quantize(model, structure, [variant()], None, device=CPU)


def test_nan_activations_stop_the_run_and_name_the_site():
    model, structure, ids = load("llama")
    model.model.layers[0].input_layernorm.weight.data[0] = float("inf")
    with pytest.raises(QuantizationError, match=r"layers\.0\..*calibration tokens hold NaN or Inf"):
        quantize(model, structure, [variant(GPTQ())], ids, device=CPU)


def test_expert_without_tokens_is_rounded_to_nearest_and_noted():
    model, structure, ids = load("qwen3-moe")
    result = quantize(model, structure, [variant(GPTQ())], ids[:1, :4], device=CPU)[0]
    assert any("experts" in note and "no calibration token reached it" in note for note in result.notes)


@pytest.mark.parametrize("statistics", ["fp", "propagate"])
def test_a_variant_that_fails_leaves_the_walk_and_the_others_are_as_they_would_be_without_it(statistics):
    model, structure, ids = load("llama")

    class Failing(RTN):
        def round(self, weight, grid, stats, *, keep=None):
            if torch.equal(weight[:32], model.model.layers[1].self_attn.q_proj.weight):
                raise ValueError("no grid fits")
            return super().round(weight, grid, stats, keep=keep)

    sound = [variant(GPTQ(), statistics=statistics), variant()]
    outcomes = quantize_each(model, structure, [sound[0], variant(Failing()), sound[1]], ids, device=CPU)
    assert isinstance(outcomes[1], QuantizationError)
    assert str(outcomes[1]).startswith("model.layers.1.{self_attn.q_proj,")
    assert str(outcomes[1]).endswith("no grid fits")
    for one, outcome in zip(sound, (outcomes[0], outcomes[2]), strict=True):
        alone = quantize(model, structure, [one], ids, device=CPU)[0]
        assert outcome.weights.keys() == alone.weights.keys()
        assert all(torch.equal(w.codes, outcome.weights[name].codes) for name, w in alone.weights.items())
