"""What is said of tiny models of several architectures against hooks on their forward passes, scipy and autograd."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kurtosis
from torch.nn import functional as F

from quantbench.formats import IntFormat
from quantbench.inspection.describe import describe
from quantbench.methods.activation import DynamicActivation, NoActivation, StaticActivation
from quantbench.methods.allocation import Uniform
from quantbench.methods.range import MinMax
from quantbench.methods.rounding import GPTQ, RTN, KeepFullPrecision
from quantbench.methods.transform import AWQ, BlockHadamard, Hadamard, NoTransform, OSPlus, SmoothQuant, SpinQuant
from quantbench.methods.variant import Variant
from quantbench.models.branch import VariantResult
from quantbench.models.canonical import canonicalise_
from quantbench.models.rewrite import rewrite_
from quantbench.models.solve import apply_result
from quantbench.models.structure import find_structure
from quantbench.models.walk import quantize_each
from quantbench.store.inspection import AFTER, BEFORE, INPUT, WEIGHT, Inspection
from tests.models import tiny

CPU = torch.device("cpu")


def load(name):
    model = tiny.build(name)
    canonicalise_(model)
    ids = torch.randint(3, tiny.VOCABULARY, (5, 24), generator=torch.Generator().manual_seed(1))
    return model, find_structure(model), ids


def variant(transform=None, rounding=None, *, bits=3, statistics="fp", activation=None):
    format = IntFormat(bits=bits, group_size=16)
    axes: Any = (format, MinMax(), transform or NoTransform(), rounding or RTN(), Uniform(), statistics)
    return Variant(*axes, activation=activation or NoActivation())


def described(model, structure, ids, variant, *, samples=2):
    found = describe(model, structure, variant, ids, samples=samples, device=CPU)
    return Inspection({"transformed": found.transformed}, found.rows)


@torch.no_grad()
def inputs_of(model, ids, names):
    """What each linear reads [tokens, in], from hooks on the model's own forward pass; routed experts' tokens alone."""
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(lambda m, args, seen=seen[name]: seen.append(args[0]))
        for name in names
    ]
    model(input_ids=ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    return {name: torch.cat([x.flatten(0, -2) for x in parts]).double() for name, parts in seen.items() if parts}


def pearson(values):
    return kurtosis(np.asarray(values, np.float64), axis=None, fisher=False)


@pytest.mark.parametrize("name", ["llama", "opt", "gpt2", "gemma3", "phi3-gqa", "gpt-neox", "mixtral", "qwen3-moe"])
def test_before_the_transform_every_matrix_is_that_of_the_models_own_forward_pass(name):
    model, structure, ids = load(name)
    found = described(model, structure, ids, variant(rounding=KeepFullPrecision()))
    weights, read = found.select(WEIGHT, BEFORE), found.select(INPUT, BEFORE)
    assert list(weights) == list(structure.linears)
    expected = inputs_of(model, ids, structure.linears)
    assert set(read) == {row.site for row in weights.values()} & set(expected)
    for linear, row in weights.items():
        weight = model.get_submodule(linear).weight
        assert (row.rows, row.channels) == tuple(weight.shape)
        assert row.kurtosis == pytest.approx(pearson(weight), rel=1e-6)
        if linear in expected and len(expected[linear]):
            x, site = expected[linear], read[row.site]
            assert site.rows == len(x)
            assert site.kurtosis == pytest.approx(pearson(x), rel=1e-3)
            largest = x.abs().amax(0)
            assert site.channel_ratio == pytest.approx(float(largest.max() / np.median(largest)), rel=1e-4)
    after = found.select(WEIGHT, AFTER)
    assert not found.transformed
    assert {name: row.kurtosis for name, row in after.items()} == {name: row.kurtosis for name, row in weights.items()}
    assert all(row.kl is None and row.code_counts == [] for row in after.values())


ROTATIONS = {
    "llama-mha-bias": Hadamard(),
    "opt": Hadamard(),
    "mixtral": Hadamard(),
    "qwen2": Hadamard(online=True),
    "phi3": BlockHadamard(block_size=8),
}


@pytest.mark.parametrize("name", ROTATIONS)
def test_after_a_rotation_they_are_those_of_the_rotated_model(name):
    rotation = ROTATIONS[name]
    model, structure, ids = load(name)
    twin = copy.deepcopy(model)
    rewrite_(twin, find_structure(twin), rotation)
    expected = inputs_of(twin, ids, structure.linears)
    found = described(model, structure, ids, variant(rotation))
    assert found.transformed
    before, after = found.select(INPUT, BEFORE), found.select(INPUT, AFTER)
    for linear, row in after.items():
        assert row.kurtosis == pytest.approx(pearson(expected[linear]), rel=1e-3)
    for linear, row in found.select(WEIGHT, AFTER).items():
        assert row.kurtosis == pytest.approx(pearson(twin.get_submodule(linear).weight), rel=1e-4)
    assert any(abs(after[linear].kurtosis - before[linear].kurtosis) > 0.2 for linear in after)


def test_after_smoothquant_inputs_are_divided_and_weights_multiplied_by_its_scales():
    model, structure, ids = load("llama")
    expected = inputs_of(model, ids, structure.linears)
    original = {name: model.get_submodule(name).weight.clone() for name in structure.linears}
    found = described(model, structure, ids, variant(SmoothQuant(alpha=0.5)))
    read, weights = found.select(INPUT, AFTER), found.select(WEIGHT, AFTER)
    for block in structure.blocks:
        for site in (site for site in block.sites if site.role in ("attention_in", "mlp_in")):
            names = [f"{block.name}.{linear}" for linear in site.linears]
            x = expected[names[0]]
            columns = torch.stack([original[name].abs().amax(0) for name in names]).amax(0).double()
            scale = (x.abs().amax(0) / columns).sqrt()  # eq. 4 of arXiv 2211.10438
            assert read[names[0]].kurtosis == pytest.approx(pearson(x / scale), rel=1e-3)
            assert weights[names[0]].absmax == pytest.approx(float((original[names[0]] * scale).abs().max()), rel=1e-3)
    for name, weight in original.items():
        assert torch.equal(model.get_submodule(name).weight, weight), "the model is left as it was"


@torch.no_grad()
def divergence(model, ids, expected):
    changed = model(input_ids=ids, use_cache=False).logits.double().log_softmax(-1)
    return float(F.kl_div(changed, expected, reduction="none", log_target=True).sum(-1).mean())


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("llama", variant(rounding=GPTQ(), statistics="propagate")),
        ("qwen2", variant(AWQ(n_grid=4), bits=2)),
        ("opt", variant(activation=DynamicActivation(bits=4))),
        ("gpt-neox", variant(rounding=KeepFullPrecision(), activation=DynamicActivation(bits=3, granularity="tensor"))),
        ("mixtral", variant()),
        ("llama", variant(OSPlus(steps=4), activation=StaticActivation(calibration="percentile", percent=99.0))),
    ],
    ids=["llama-gptq", "qwen2-awq", "opt-w3a4", "neox-a3", "mixtral-rtn", "llama-os-plus"],
)
def test_errors_are_those_of_the_model_with_one_linear_quantized(name, chosen):
    model, structure, ids = load(name)
    rows = described(model, structure, ids, chosen).select(WEIGHT, AFTER)
    with torch.no_grad():
        expected = model(input_ids=ids[:2], use_cache=False).logits.double().log_softmax(-1)
    (result,) = quantize_each(model, structure, [chosen], ids, device=CPU, keep_latent=True)
    transformed = {**result.parameters, **{f"{linear}.weight": value for linear, value in result.latent.items()}}
    apply_result(model, VariantResult(parameters=transformed))
    assert divergence(model, ids[:2], expected) < 1e-9, "transformed, but not rounded: the same function"
    read = inputs_of(model, ids, structure.linears)
    for linear in [structure.linears[0], structure.linears[len(structure.linears) // 2], structure.linears[-1]]:
        row, module, quantizer = rows[linear], model.get_submodule(linear), result.inputs.get(linear)
        kept, x = module.weight.data, read[linear].float()
        rounded = result.weights[linear].dequantize() if linear in result.weights else kept
        quantized = x if quantizer is None else torch.cat([quantizer(part) for part in x.split(ids.shape[1])])
        whole = x.double() @ kept.double().T
        error = quantized.double() @ rounded.double().T - whole
        assert row.output_error == pytest.approx(float(error.square().sum() / whole.square().sum()), rel=1e-3)
        if linear in result.weights:
            lost = float((rounded - kept).square().sum() / kept.square().sum())
            assert row.weight_error == pytest.approx(lost, rel=1e-3)
        module.weight.data = rounded
        hook = module.register_forward_pre_hook(lambda m, args, q=quantizer: args if q is None else (q(args[0]),))
        assert row.kl == pytest.approx(divergence(model, ids[:2], expected), rel=2e-2, abs=1e-6)
        assert row.kl > 0
        hook.remove()
        module.weight.data = kept


def test_fisher_weighs_the_change_by_squared_gradients_of_each_samples_loss():
    model, structure, ids = load("llama")
    chosen, name = variant(), structure.linears[-1]
    (result,) = quantize_each(model, structure, [chosen], ids, device=CPU)
    row = described(model, structure, ids, chosen, samples=3).select(WEIGHT, AFTER)[name]
    weight, total = model.get_submodule(name).weight.requires_grad_(True), 0.0
    change = (result.weights[name].dequantize() - weight.detach()).double()
    for sample in ids[:3]:
        model(input_ids=sample[None], labels=sample[None]).loss.backward()
        total += float((weight.grad.double().square() * change.square()).sum()) / 3
        weight.grad = None
    assert row.fisher == pytest.approx(total, rel=1e-4)


def test_inputs_are_laid_on_the_code_points_of_what_quantizes_them():
    model, structure, ids = load("qwen2")
    expected = inputs_of(model, ids, structure.linears)
    found = described(model, structure, ids, variant(activation=DynamicActivation(bits=4)), samples=0)
    rows = found.select(INPUT, AFTER)
    assert found.select(INPUT, BEFORE)[structure.linears[0]].code_counts == []
    for name, row in rows.items():
        x = expected[name]
        codes = torch.round(x / (x.abs().amax(1, keepdim=True) / 7)).clamp(-7, 7) + 8  # narrow range, a scale a token
        counts = np.bincount(codes.flatten().long(), minlength=16)
        assert np.abs(np.array(row.code_counts) - counts).max() <= 2, "halves may round either way in float32"
        assert row.clipped == 0
        assert len(row.code_points) == 15
    assert all(row.kl is None for row in found.select(WEIGHT, AFTER).values()), "samples=0"


def test_inputs_beyond_a_static_range_are_clipped():
    model, structure, ids = load("llama")
    activation = StaticActivation(bits=8, calibration="percentile", percent=98.0)
    rows = described(model, structure, ids, variant(activation=activation), samples=0).select(INPUT, AFTER)
    for name, x in inputs_of(model, ids, rows).items():
        low, high = np.quantile(x.numpy(), [0.01, 0.99])  # symmetric: the larger end decides
        beyond = float((x.abs() > max(-low, high)).double().mean())
        assert rows[name].clipped == pytest.approx(beyond, abs=3e-3)
        assert rows[name].clipped > 0.003


def test_a_learned_rotation_is_learned_for_what_the_run_quantizes():
    model, structure, ids = load("llama")
    original = copy.deepcopy(model)
    chosen = variant(SpinQuant(steps=2), activation=DynamicActivation(bits=4))
    found = described(model, structure, ids, chosen, samples=1)
    assert found.transformed
    with torch.no_grad():
        expected = original(input_ids=ids[:2], use_cache=False).logits.double().log_softmax(-1)
    assert divergence(model, ids[:2], expected) < 1e-6, "the rotation stays in the model, which computes the same"
    assert all(row.kl > 0 for row in found.select(WEIGHT, AFTER).values())
