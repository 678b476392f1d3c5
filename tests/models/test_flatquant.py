"""FlatQuant: its transforms preserve the function, are tuned with the block, and run where they were learned."""

import pytest
import torch

from quantbench.config import check_command_line
from quantbench.errors import InputError
from quantbench.formats import IntFormat
from quantbench.methods.activation import DynamicActivation
from quantbench.methods.allocation import Uniform
from quantbench.methods.range import MinMax
from quantbench.methods.rounding import RTN, FlatQuant
from quantbench.methods.rounding.affine import KroneckerAffine, changed
from quantbench.methods.transform import NoTransform
from quantbench.methods.variant import Variant
from quantbench.models.solve import apply_result
from quantbench.models.walk import quantize
from tests.models import tiny
from tests.models.test_rotate import load, logits

IDS = torch.randint(3, tiny.VOCABULARY, (8, 24), generator=torch.Generator().manual_seed(1))


def variant(rounding, bits=4, skip=(), stats="fp") -> Variant:
    format = IntFormat(bits=bits, group_size=None, symmetric=True)
    allocation = Uniform(skip=list(skip))
    activation = DynamicActivation(bits=bits)
    return Variant(format, MinMax(), NoTransform(), rounding, allocation, stats, activation)


def error(model, result) -> float:
    expected = logits(model)
    undo = apply_result(model, result)
    found = float((logits(model) - expected).square().mean() / expected.var())
    undo()
    assert torch.equal(logits(model), expected)
    return found


def test_the_transform_is_the_kronecker_product_and_the_weight_undoes_it():
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(5, 48, generator=generator).double(), torch.randn(7, 48, generator=generator).double()
    affine = KroneckerAffine([weight.float()], x.abs().amax(0).float(), alpha=0.3, lr=1e-3, generator=generator)
    with torch.no_grad():
        affine.left += 0.1 * torch.randn(6, 6, generator=generator)
        tensors = {name: tensor.double() for name, tensor in affine.tensors().items()}
        p = tensors["scale"].diag() @ torch.kron(tensors["left"], tensors["right"])
        torch.testing.assert_close(changed(x, tensors), x @ p, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(
            affine.folded(weight.float()).double(), weight @ torch.linalg.inv(p).T, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("name", ["llama", "opt", "gpt2", "gpt-neox", "gemma3"])
def test_at_many_bits_the_function_is_preserved(name):
    model, structure = load(name)
    result = quantize(model, structure, [variant(FlatQuant(epochs=1), bits=8)], IDS, device=torch.device("cpu"))[0]
    plain = quantize(model, structure, [variant(RTN(), bits=8)], IDS, device=torch.device("cpu"))[0]
    assert set(result.online) == set(result.weights)
    assert 0 < error(model, result) < 2 * error(model, plain)


@pytest.mark.parametrize("stats", ["fp", "propagate"])
def test_tuning_lowers_the_error_of_weights_and_inputs_in_4_bits(stats):
    model, structure = load("llama")
    for block in structure.blocks:
        block.module.input_layernorm.weight[5] = 20.0  # an outlier channel
    ids = torch.randint(3, tiny.VOCABULARY, (32, 32), generator=torch.Generator().manual_seed(1))
    rounds = [RTN(), FlatQuant(epochs=0), FlatQuant(epochs=5)]
    variants = [variant(rounding, stats=stats) for rounding in rounds]
    plain, start, tuned = (
        error(model, r) for r in quantize(model, structure, variants, ids, device=torch.device("cpu"))
    )
    assert tuned < 0.8 * start < 0.8 * plain


def test_a_site_with_a_linear_that_stays_is_not_transformed():
    model, structure = load("llama")
    one = variant(FlatQuant(epochs=1), skip=["k_proj"])
    result = quantize(model, structure, [one], IDS, device=torch.device("cpu"))[0]
    assert {name.rpartition(".")[2] for name in result.online} == {"o_proj", "gate_proj", "up_proj", "down_proj"}
    assert {name.rpartition(".")[2] for name in result.weights} > {"q_proj", "v_proj"}
    block = result.online["model.layers.0.mlp.gate_proj"]
    assert block is result.online["model.layers.0.mlp.up_proj"]


def test_presets_and_what_is_refused():
    (config,) = check_command_line(["method=flatquant", "seed=2"], multirun=False)
    assert config.rounding == FlatQuant(epochs=15, batch_size=4, lr=5e-3, alpha=0.3, seed=2)
    for overrides, message in (
        (["transform=hadamard_online"], "rounding=flatquant transforms inputs online"),
        (["save=x", "activation=none", "kv_cache=none"], "save=x: allowed only where all is in the weights"),
        (["rounding.epochs=-1"], "rounding.epochs=-1: allowed"),
    ):
        with pytest.raises(InputError, match=message):
            check_command_line(["method=flatquant", *overrides], multirun=False)
