"""Paired capture in the walk against hooks on whole models, and what GPTAQ makes of it."""

from dataclasses import replace

import pytest
import torch

from quantbench.formats import IntFormat
from quantbench.methods.allocation import Uniform
from quantbench.methods.grid import Grid
from quantbench.methods.range import MinMax
from quantbench.methods.rounding import GPTAQ, GPTQ
from quantbench.methods.stats import SiteStats
from quantbench.methods.transform import NoTransform, SmoothQuant
from quantbench.methods.variant import Variant
from quantbench.models.canonical import canonicalise_
from quantbench.models.solve import apply_result
from quantbench.models.structure import find_structure
from quantbench.models.walk import quantize
from tests.models import tiny

CPU = torch.device("cpu")
FORMAT = IntFormat(bits=3, group_size=16)


def variant(rounding, transform=None):
    return Variant(FORMAT, MinMax(), transform or NoTransform(), rounding, Uniform(), "propagate")


def load(name, **changes):
    model = tiny.build(name, **changes)
    canonicalise_(model)
    return model, find_structure(model), torch.randint(3, 96, (24, 32), generator=torch.Generator().manual_seed(1))


def inputs_of(model, ids, name):
    """The inputs [tokens, in] of one linear in a forward pass of the whole model."""
    seen = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        model(input_ids=ids, use_cache=False)
    handle.remove()
    return seen[0].flatten(0, -2)


@pytest.mark.parametrize("sequential", [False, True], ids=["one-pass", "true_sequential"])
@pytest.mark.parametrize("transform", [None, SmoothQuant()], ids=["plain", "smooth"])
def test_pairs_are_the_same_tokens_in_the_full_and_the_quantized_model(sequential, transform):
    model, structure, ids = load("llama")
    rounding = GPTAQ(true_sequential=sequential)
    result = quantize(model, structure, [variant(rounding, transform)], ids, device=CPU)[0]
    block = structure.blocks[-1].name
    late = sequential and transform is None
    name = f"{block}.mlp.down_proj" if late else f"{block}.self_attn.q_proj"
    full = inputs_of(model, ids, name)
    weight = model.get_submodule(name).weight.detach().clone()
    later = [name] if late else [n for n in result.weights if n.startswith(block)]
    own = replace(result, weights={n: w for n, w in result.weights.items() if n not in later})
    undo = apply_result(model, own)
    drifted = inputs_of(model, ids, name)
    undo()
    scale = torch.ones(weight.shape[1])
    if transform is not None:  # the norm before the site was divided by the site's scale
        norm = f"{block}.input_layernorm.weight"
        scale = model.get_parameter(norm).detach() / result.parameters[norm]
    stats = SiteStats.empty(weight.shape[1])
    stats.update(drifted, full / scale)
    alone = rounding.round(weight * scale, Grid(FORMAT, MinMax()), stats).weight
    assert (alone.codes == result.weights[name].codes).float().mean() > 0.99
    unpaired = GPTQ().round(weight * scale, Grid(FORMAT, MinMax()), stats).weight
    assert (unpaired.codes == result.weights[name].codes).float().mean() < 0.98


def test_first_site_has_no_drift_and_equals_gptq():
    model, structure, ids = load("llama")
    gptaq, gptq = quantize(model, structure, [variant(GPTAQ()), variant(GPTQ(true_sequential=True))], ids, device=CPU)
    first = f"{structure.blocks[0].name}.self_attn.q_proj"
    last = f"{structure.blocks[-1].name}.mlp.down_proj"
    assert torch.equal(gptaq.weights[first].codes, gptq.weights[first].codes)
    assert not torch.equal(gptaq.weights[last].codes, gptq.weights[last].codes)


@pytest.mark.parametrize("name", ["llama", "opt", "gemma2"])
def test_model_output_is_nearer_to_full_precision_than_with_gptq(name):
    model, structure, ids = load(name)
    with torch.no_grad():
        before = model(ids).logits
        errors = []
        for result in quantize(
            model, structure, [variant(GPTAQ()), variant(GPTQ(true_sequential=True))], ids, device=CPU
        ):
            undo = apply_result(model, result)
            errors.append(float((model(ids).logits - before).square().mean()))
            undo()
    assert errors[0] < errors[1]


def test_routed_experts_are_rounded_by_gptq_and_noted():
    model, structure, ids = load("mixtral")
    result = quantize(model, structure, [variant(GPTAQ())], ids, device=CPU)[0]
    noted = [note for note in result.notes if "routing" in note]
    assert noted
    assert all("experts" in note for note in noted)
