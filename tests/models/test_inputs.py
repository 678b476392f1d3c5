"""Quantized inputs in the walk and in the model, against hooks on a whole forward pass."""

from dataclasses import replace

import pytest
import torch

from quantbench.formats import IntFormat
from quantbench.methods.activation import DynamicActivation, StaticActivation
from quantbench.methods.allocation import Uniform
from quantbench.methods.grid import Grid
from quantbench.methods.kv_cache.per_token import PerToken
from quantbench.methods.range import MinMax
from quantbench.methods.rounding import GPTQ, RTN, KeepFullPrecision
from quantbench.methods.transform import AWQ, NoTransform, SmoothQuant
from quantbench.methods.variant import Variant
from quantbench.models.canonical import canonicalise_
from quantbench.models.solve import apply_result
from quantbench.models.structure import find_structure
from quantbench.models.walk import quantize
from tests.models import tiny
from tests.models.test_walk import inputs_of

CPU = torch.device("cpu")
WEIGHTS = IntFormat(bits=8, group_size=None, symmetric=True)


def variant(rounding=None, *, activation=None, transform=None, statistics="propagate"):
    return Variant(
        WEIGHTS,
        MinMax(),
        transform or NoTransform(),
        rounding or KeepFullPrecision(),
        Uniform(),
        statistics,
        activation=activation or DynamicActivation(),
    )


def load(name):
    model = tiny.build(name)
    canonicalise_(model)
    return model, find_structure(model), tiny.token_ids(3, 16)


def hooked_logits(model, names, ids, quantizer):
    """Logits of the model with the inputs of the named linears quantized by hooks."""
    hook = lambda module, args: (quantizer(args[0]),)  # noqa: E731
    handles = [model.get_submodule(name).register_forward_pre_hook(hook) for name in names]
    try:
        return model(ids).logits
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_inputs_of_full_precision_weights_are_quantized_and_undone(name):
    model, structure, ids = load(name)
    before = model(ids).logits
    result = quantize(model, structure, [variant()], None, device=CPU)[0]
    expected = hooked_logits(model, structure.linears, ids, DynamicActivation().quantizer("x", "other"))
    assert set(result.inputs) == set(structure.linears)
    assert not result.weights
    undo = apply_result(model, result)
    assert torch.equal(model(ids).logits, expected)
    assert not torch.equal(expected, before)
    undo()
    assert torch.equal(model(ids).logits, before)


@torch.no_grad()
def test_int8_weights_and_inputs_are_what_integer_arithmetic_gives():
    model, structure, _ = load("llama")
    result = quantize(model, structure, [variant(RTN())], None, device=CPU)[0]
    apply_result(model, result)
    layer = model.get_submodule(structure.linears[0])
    x = torch.randn(7, layer.in_features, generator=torch.Generator().manual_seed(0))
    inputs, weight = layer.inputs.quantized(x), layer.quantized
    products = (inputs.codes.long() - 128) @ (weight.codes.long() - weight.zero_point.long()).T
    expected = products.double() * inputs.scale.double() * weight.scale.double().T
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_propagated_statistics_are_those_of_blocks_with_quantized_inputs():
    model, structure, ids = load("llama")
    one = variant(GPTQ(), activation=DynamicActivation(bits=4))
    result = quantize(model, structure, [one], ids, device=CPU)[0]
    last = structure.blocks[-1]
    names = [f"{last.name}.{name}" for name in last.linears]
    weights = {name: model.get_submodule(name).weight.detach() for name in names}
    prefix = replace(
        result,
        weights={name: weight for name, weight in result.weights.items() if name not in names},
        inputs={name: quantizer for name, quantizer in result.inputs.items() if name not in names},
    )
    undo = apply_result(model, prefix)
    seen = inputs_of(model, ids, names)
    undo()
    without = inputs_of(model, ids, names)
    for name in names:
        alone, other = (GPTQ().round(weights[name], Grid(WEIGHTS, MinMax()), s[name]).weight for s in (seen, without))
        assert (alone.codes == result.weights[name].codes).float().mean() > 0.995, name
        assert not torch.equal(other.codes, result.weights[name].codes), name


def values_of(model, ids, names):
    """All that each linear reads, [tokens, in], from hooks on a whole forward pass."""
    seen = {}
    handles = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda module, args, name=name: seen.__setitem__(name, args[0].flatten(0, -2))
        )
        for name in names
    ]
    model(ids)
    for handle in handles:
        handle.remove()
    return seen


@torch.no_grad()
@pytest.mark.parametrize("transform", [NoTransform(), SmoothQuant()], ids=["plain", "smooth"])
@pytest.mark.parametrize("statistics", ["fp", "propagate"])
def test_static_scales_are_those_of_the_transformed_model_in_either_statistics_mode(statistics, transform):
    model, structure, ids = load("llama")
    one = variant(activation=StaticActivation(bits=4), transform=transform, statistics=statistics)
    result = quantize(model, structure, [one], ids, device=CPU)[0]
    for block in structure.blocks:
        names = [f"{block.name}.{name}" for name in block.linears]
        before = structure.linears[: structure.linears.index(names[0])] if statistics == "propagate" else ()
        undo = apply_result(model, replace(result, inputs={name: result.inputs[name] for name in before}))
        seen = values_of(model, ids, names)
        undo()
        for name, x in seen.items():
            torch.testing.assert_close(result.inputs[name].params.scale, x.abs().max() / 7, rtol=1e-4, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("rounding", [RTN(), GPTQ(true_sequential=True)], ids=["rtn", "gptq-true_sequential"])
def test_variants_with_quantized_inputs_share_a_walk_with_others(rounding):
    model, structure, ids = load("llama")
    variants = [
        variant(rounding, activation=DynamicActivation(bits=4)),
        variant(rounding, activation=DynamicActivation(skip=["*"])),
        variant(rounding, activation=StaticActivation()),
        variant(activation=StaticActivation(calibration="mse"), statistics="fp"),
        variant(RTN(), activation=StaticActivation(number="e4m3"), statistics="fp"),
        variant(transform=SmoothQuant(), activation=StaticActivation(), statistics="fp"),
        variant(transform=AWQ(n_grid=3), statistics="fp"),
    ]
    together = quantize(model, structure, variants, ids, device=CPU)
    for one, result in zip(variants, together, strict=True):
        alone = quantize(model, structure, [one], ids, device=CPU)[0]
        assert alone.inputs == result.inputs
        for name, weight in alone.weights.items():
            assert torch.equal(weight.codes, result.weights[name].codes), name
        assert all(torch.equal(value, result.parameters[name]) for name, value in alone.parameters.items())
    assert not together[1].inputs


def test_a_gradient_passes_quantized_inputs_straight_through():
    model, structure, _ = load("llama")
    result = quantize(model, structure, [variant(activation=DynamicActivation(bits=4))], None, device=CPU)[0]
    apply_result(model, result)
    layer = model.get_submodule(structure.linears[0])
    x = torch.randn(3, layer.in_features, requires_grad=True)
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand_as(x))


@torch.no_grad()
def test_static_scales_of_full_precision_know_nothing_of_the_cache():
    model, structure, ids = load("llama")
    plain = variant(activation=StaticActivation(bits=4), statistics="fp")
    cached = replace(plain, kv_cache=PerToken(bits=2))
    alone, beside = (quantize(model, structure, [one], ids, device=CPU)[0].inputs for one in (plain, cached))
    assert alone == beside
    assert alone != quantize(model, structure, [replace(cached, statistics="propagate")], ids, device=CPU)[0].inputs
