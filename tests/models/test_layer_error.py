"""The recorded error of each linear against the outputs of the whole model, summed over tokens in double precision."""

import pytest
import torch

from quantbench.formats import IntFormat
from quantbench.methods.allocation import Uniform
from quantbench.methods.grid import Grid
from quantbench.methods.range import MinMax
from quantbench.methods.rounding import GPTQ, RTN, AutoRound, OmniQuant
from quantbench.methods.stats import SiteStats
from quantbench.methods.transform import AWQ, NoTransform
from quantbench.methods.variant import Variant
from quantbench.models.canonical import canonicalise_
from quantbench.models.layer_error import layer_error
from quantbench.models.structure import find_structure
from quantbench.models.walk import quantize
from tests.models import tiny


def walked(rounding, transform=None, *, bits=3, name="llama"):
    """A model, its calibration tokens and the result of quantizing it with full-precision statistics."""
    model = tiny.build(name)
    canonicalise_(model)
    ids = torch.randint(3, tiny.VOCABULARY, (7, 24), generator=torch.Generator().manual_seed(1))
    format = IntFormat(bits=bits, group_size=16)
    variant = Variant(format, MinMax(), transform or NoTransform(), rounding, Uniform(), "fp")
    structure = find_structure(model)
    (result,) = quantize(model, structure, [variant], ids, device=torch.device("cpu"))
    assert set(result.layers) == set(structure.linears)
    return model, ids, result


def inputs_of(model, ids, name):
    """What a linear reads [tokens, in], from a hook on the model's own forward pass."""
    seen = []
    hook = model.get_submodule(name).register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        model(input_ids=ids, use_cache=False)
    hook.remove()
    return seen[0].flatten(0, 1).double()


def share(difference, whole):
    return float(difference.square().sum() / whole.square().sum())


@pytest.mark.parametrize("linear", ["self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj"])
def test_errors_are_those_of_the_weights_and_of_the_outputs_on_the_calibration_tokens(linear):
    model, ids, result = walked(GPTQ())
    name = f"model.layers.1.{linear}"
    weight, quantized = model.get_submodule(name).weight.detach().double(), result.weights[name].dequantize().double()
    x, error = inputs_of(model, ids, name), result.layers[name]
    assert error.weight == pytest.approx(share(quantized - weight, weight), rel=1e-5)
    assert error.output == pytest.approx(share(x @ (quantized - weight).T, x @ weight.T), rel=1e-4)
    assert error.output != pytest.approx(error.weight, rel=0.05), "or the test would not tell them apart"
    assert error.elements == weight.numel()


def test_after_a_scaling_the_outputs_error_is_still_that_of_the_models_own_outputs():
    model, ids, result = walked(RTN(), AWQ(n_grid=4))
    name, norm = "model.layers.1.self_attn.k_proj", "model.layers.1.input_layernorm.weight"
    scale = model.get_parameter(norm).detach().double() / result.parameters[norm].double()
    assert not torch.allclose(scale, torch.ones_like(scale)), "or nothing is scaled"
    weight, quantized = model.get_submodule(name).weight.detach().double(), result.weights[name].dequantize().double()
    x, error = inputs_of(model, ids, name), result.layers[name]
    assert error.output == pytest.approx(share(x @ (quantized / scale - weight).T, x @ weight.T), rel=1e-4)
    assert error.weight == pytest.approx(share(quantized - weight * scale, weight * scale), rel=1e-4)


def test_a_method_that_looks_at_no_inputs_has_errors_of_weights_alone():
    _, _, result = walked(RTN())
    assert all(error.output is None and 0 < error.weight < 0.1 for error in result.layers.values())


def test_inputs_that_a_learned_scale_changed_give_no_error_of_outputs():
    _, _, result = walked(OmniQuant(epochs=1, let=True))
    first = {name.rpartition("layers.0.")[2]: error for name, error in result.layers.items() if ".layers.0." in name}
    assert first["self_attn.q_proj"].output is None
    assert first["mlp.gate_proj"].output is None
    assert 0 < first["mlp.down_proj"].output < 0.1  # no scale is learned behind the gate
    assert all(0 < error.weight < 0.2 for error in first.values())


def test_tuned_weights_are_held_against_what_they_were_tuned_from():
    model, _, result = walked(AutoRound(iterations=2))
    for name, error in result.layers.items():
        weight = model.get_submodule(name).weight.detach().double()
        assert error.weight == pytest.approx(share(result.weights[name].dequantize() - weight, weight), rel=1e-5)


def test_layers_of_zeros_and_experts_without_tokens_have_no_division_by_zero():
    weight, grid = torch.zeros(4, 16), Grid(IntFormat(bits=4, group_size=16), MinMax())
    error = layer_error(weight, RTN().round(weight, grid, None).weight, SiteStats.empty(16))
    assert (error.weight, error.output) == (0.0, None)


def test_every_expert_has_its_own_error():
    _, _, result = walked(RTN(), name="qwen3-moe")
    experts = {error.weight for name, error in result.layers.items() if "experts" in name and "up_proj" in name}
    assert len(experts) > 2
