"""Mixed precision: sensitivities against direct evaluation, the knapsack against enumeration, the plan in the walk."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from quantbench.errors import InputError
from quantbench.formats import IntBilevel, IntFormat
from quantbench.methods.allocation import Mixed, Uniform
from quantbench.methods.grid import Grid
from quantbench.methods.range import MinMax
from quantbench.methods.rounding import GPTQ, RTN
from quantbench.methods.stats import SiteStats
from quantbench.methods.transform import NoTransform
from quantbench.methods.variant import Variant
from quantbench.models.canonical import canonicalise_
from quantbench.models.divergence import OneLinearDivergence
from quantbench.models.knapsack import choose
from quantbench.models.sensitivity import FisherError, OutputError, Trial
from quantbench.models.structure import find_structure
from quantbench.models.walk import quantize
from tests.models import tiny

CPU = torch.device("cpu")
FORMAT = IntFormat(bits=3, group_size=16)


def load(name):
    model = tiny.build(name)
    canonicalise_(model)
    ids = torch.randint(3, tiny.VOCABULARY, (5, 24), generator=torch.Generator().manual_seed(1))
    return model, find_structure(model), ids


def variant(allocation, *, rounding=None, format=FORMAT):
    return Variant(format, MinMax(), NoTransform(), rounding or RTN(), allocation, "propagate")


def bits_per_weight(model, structure, result):
    """Over all linears of the blocks, those left alone at 16 bits."""
    bits = weights = 0
    for name in (f"{block.name}.{linear}" for block in structure.blocks for linear in block.linears):
        count = model.get_submodule(name).weight.numel()
        bits += 8 * result.weights[name].pack().nbytes if name in result.weights else 16 * count
        weights += count
    return bits / weights


@st.composite
def instances(draw):
    items, choices = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    cost = draw(st.lists(st.floats(0, 1e4), min_size=items * choices, max_size=items * choices))
    unit = draw(st.sampled_from([1, 72, 1_000_003]))
    size = draw(st.lists(st.integers(1, 60), min_size=items * choices, max_size=items * choices))
    sizes = unit * np.array(size, dtype=np.int64).reshape(items, choices)
    low, high = int(sizes.min(1).sum()), int(sizes.max(1).sum())
    return np.array(cost).reshape(items, choices), sizes, draw(st.integers(low, high + 5))


@settings(max_examples=60, deadline=None)
@given(instances())
def test_chosen_is_the_best_of_all_combinations_that_fit(instance):
    cost, size, capacity = instance
    items = np.arange(len(cost))
    best = min(
        cost[items, list(pick)].sum()
        for pick in itertools.product(range(cost.shape[1]), repeat=len(cost))
        if size[items, list(pick)].sum() <= capacity
    )
    chosen = choose(cost, size, capacity)
    assert size[items, chosen].sum() <= capacity
    assert cost[items, chosen].sum() == pytest.approx(best, rel=1e-9, abs=1e-9 * cost.max())


def test_nothing_fits_is_said():
    with pytest.raises(ValueError, match="the smallest choices take 3"):
        choose(np.zeros((2, 2)), np.array([[1, 5], [2, 5]]), 2)


def trial(rows=6, columns=20, tokens=50):
    generator = torch.Generator().manual_seed(0)
    weight, inputs = torch.randn(rows, columns, generator=generator), torch.randn(tokens, columns, generator=generator)
    stats = SiteStats.empty(columns)
    stats.update(inputs)
    _, structure, _ = load("llama")
    rounded = weight + 0.1 * torch.randn(rows, columns, generator=generator)
    return Trial(structure.blocks[0], "self_attn.q_proj", weight, rounded, stats, 2 * tokens), inputs.double()


def test_output_error_is_that_of_the_outputs_on_the_data():
    one, inputs = trial()
    energy = (inputs @ one.weight.double().T).square().sum()
    error = (inputs @ (one.rounded - one.weight).double().T).square().sum()
    half = len(inputs) * 2  # the linear saw half of the tokens
    assert OutputError(relative=False).loss(one) == pytest.approx(float(error / half), rel=1e-5)
    assert OutputError(relative=True).loss(one) == pytest.approx(float(error / energy / 2), rel=1e-5)


def test_an_expert_without_tokens_costs_nothing():
    one, _ = trial()
    unseen = replace(one, stats=SiteStats.empty(20))
    assert OutputError(relative=False).loss(unseen) == 0
    assert OutputError(relative=True).loss(unseen) == 0


def test_fisher_error_weighs_each_weight_by_its_own_gradient():
    one, _ = trial()
    fisher = torch.rand(6, 20, generator=torch.Generator().manual_seed(1))
    expected = (fisher.double() * (one.rounded.double() - one.weight.double()).square()).sum()
    assert FisherError({f"{one.block.name}.{one.name}": fisher}).loss(one) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "opt-350m", "gpt-neox", "mixtral"])
def test_divergence_is_that_of_the_whole_model_with_one_rounded_linear(name):
    model, structure, ids = load(name)
    with torch.no_grad():
        full = model(input_ids=ids).logits.double().log_softmax(-1)
    divergence, largest = OneLinearDivergence(model, structure, ids, CPU), 0.0
    for block in structure.blocks:
        linear = block.linears[block.index % len(block.linears)]
        module = block.module.get_submodule(linear)
        weight = module.weight.detach().clone()
        rounded = Grid(IntFormat(bits=2, group_size=16), MinMax()).nearest(weight.float(), None).dequantize()
        stats = SiteStats.empty(weight.shape[1])
        found = divergence.loss(Trial(block, linear, weight, rounded, stats, ids.numel()))
        assert torch.equal(module.weight, weight), "the weight must be put back"
        module.weight.data = rounded
        with torch.no_grad():
            changed = model(input_ids=ids).logits.double().log_softmax(-1)
        module.weight.data = weight
        expected = float((full.exp() * (full - changed)).sum(-1).mean())
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-7)
        largest = max(largest, expected)
        divergence.advance(block)
    assert largest > 1e-3, "or the test shows nothing"


@pytest.mark.parametrize("sensitivity", ["hessian", "fisher", "kl"])
def test_linear_whose_errors_matter_most_gets_more_bits_at_the_size_of_equal_bits(sensitivity):
    model, structure, ids = load("llama")
    outputs = [f"{b.name}.{n}" for b in structure.blocks for n in ("self_attn.o_proj", "mlp.down_proj")]
    loud = outputs.pop()
    for name in outputs:
        model.get_submodule(name).weight.data *= 0.03
    allocation = Mixed(sensitivity=sensitivity, relative=False, samples=2)
    result = quantize(model, structure, [variant(allocation)], ids, device=CPU)[0]
    uniform = quantize(model, structure, [variant(Uniform())], None, device=CPU)[0]
    bits = {name: weight.format.bits for name, weight in result.weights.items()}
    assert bits[loud] > np.mean([bits[name] for name in outputs])
    assert bits_per_weight(model, structure, result) <= bits_per_weight(model, structure, uniform)


@pytest.mark.parametrize("sensitivity", ["hessian", "fisher", "kl"])
def test_linear_that_two_bits_hold_exactly_gets_two(sensitivity):
    model, structure, ids = load("llama")
    easy = f"{structure.blocks[1].name}.mlp.up_proj"
    linear = model.get_submodule(easy)
    two = IntFormat(bits=2, group_size=16)
    linear.weight.data = Grid(two, MinMax()).nearest(linear.weight.detach(), None).dequantize()
    allocation = Mixed(sensitivity=sensitivity, samples=2)
    result = quantize(model, structure, [variant(allocation)], ids, device=CPU)[0]
    assert result.weights[easy].format.bits == 2


ROUNDINGS = {"rtn": RTN(), "gptq": GPTQ(), "gptq-act_order": GPTQ(act_order=True)}


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("format", [FORMAT, IntBilevel(bits=3, group_size=16)], ids=["int", "int_bilevel"])
def test_stored_bits_meet_the_budget_and_use_it(rounding, format):
    model, structure, ids = load("llama")
    mixed = Mixed(budget=7.0, sensitivity="hessian", skip=["down_proj"])
    one = variant(mixed, rounding=ROUNDINGS[rounding], format=format)
    result = quantize(model, structure, [one], ids, device=CPU)[0]
    assert not [name for name in result.weights if name.endswith("down_proj")]
    assert 6.5 < bits_per_weight(model, structure, result) <= 7.0


def test_recorded_plan_is_what_was_done_and_repeats_it_without_data():
    model, structure, ids = load("llama")
    mixed = Mixed(sensitivity="hessian", relative=False)
    result = quantize(model, structure, [variant(mixed)], ids, device=CPU)[0]
    summary, plan = result.notes
    bits = {name: weight.format.bits for name, weight in result.weights.items()}
    assert json.loads(plan.removeprefix("plan: ")) == bits
    assert len(set(bits.values())) > 1
    assert summary.startswith(f"mixed precision: {bits_per_weight(model, structure, result):.3f} of ")
    again = quantize(model, structure, [variant(Mixed(plan=bits))], None, device=CPU)[0]
    assert all(torch.equal(again.weights[n].codes, result.weights[n].codes) for n in bits)


def test_budget_out_of_reach_names_what_is_reachable():
    model, structure, ids = load("llama")
    low = variant(Mixed(budget=2.0, sensitivity="hessian"))
    with pytest.raises(InputError, match=r"^allocation.budget=2: candidates=\[2, 3, 4, 8\] reach 3.233 to 9.500 bits"):
        quantize(model, structure, [low], ids, device=CPU)


def test_budget_beyond_the_largest_candidates_gives_them_to_all():
    model, structure, ids = load("llama")
    result = quantize(model, structure, [variant(Mixed(budget=16.0, sensitivity="hessian"))], ids, device=CPU)[0]
    assert {weight.format.bits for weight in result.weights.values()} == {8}


def test_planning_leaves_the_model_as_it_was():
    model, structure, ids = load("mixtral")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    quantize(model, structure, [variant(Mixed(sensitivity="kl", samples=1))], ids, device=CPU)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any("forward" in vars(module) for module in model.modules() if isinstance(module, nn.Module))


def test_format_that_cannot_have_the_candidates_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"allocation.candidates=\[1, 4\]: the format refuses bits=1: allowed"):
        variant(Mixed(candidates=[1, 4])).check()


@pytest.mark.parametrize(
    "build",
    [
        lambda: Mixed(candidates=[]),
        lambda: Mixed(candidates=[4, 4]),
        lambda: Mixed(budget=0),
        lambda: Mixed(sensitivity="size"),
        lambda: Mixed(samples=0),
    ],
)
def test_out_of_range_hyperparameters_are_refused(build):
    with pytest.raises(ValueError, match="allowed"):
        build()
