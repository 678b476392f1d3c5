"""Folding scales into producers: which sites can, and that the model computes the same afterwards."""

import dataclasses

import pytest
import torch
from torch import Tensor

from quantbench.models.canonical import canonicalise_
from quantbench.models.folds import scale_site_, tied_mean
from quantbench.models.structure import Structure, find_structure
from tests.models import tiny

# Which roles cannot fold, from the equations of each architecture.
WITHOUT_FOLD = {
    "opt-350m": {"attention_in", "mlp_in"},  # the norms come after the residual sum and feed the next one
    "opt-gelu": {"mlp_out"},
    "gpt2": {"mlp_out"},
    "gpt-neox": {"mlp_out"},
    "gpt-neox-sequential": {"mlp_out"},
}
PRODUCER = {
    "llama": ["input_layernorm", "self_attn.v_proj", "post_attention_layernorm", "mlp.up_proj"],
    "gemma3": ["input_layernorm", "self_attn.v_proj", "pre_feedforward_layernorm", "mlp.up_proj"],
    "phi3-gqa": ["input_layernorm", "self_attn.qkv_proj", "post_attention_layernorm", "mlp.gate_up_proj"],
    "opt": ["self_attn_layer_norm", "self_attn.v_proj", "final_layer_norm", "fc1"],
    "gpt2": ["ln_1", "attn.c_attn", "ln_2"],
    "gpt-neox": ["input_layernorm", "attention.query_key_value", "post_attention_layernorm"],
}


def build(name: str) -> tuple[torch.nn.Module, Structure]:
    model = tiny.build(name)
    canonicalise_(model)
    return model, find_structure(model)


@torch.no_grad()
def logits(model: torch.nn.Module) -> Tensor:
    return model(tiny.token_ids()).logits


def width(block: torch.nn.Module, linear: str) -> int:
    return block.get_submodule(linear).in_features


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_the_sites_that_fold_are_those_the_equations_allow(name: str) -> None:
    _, structure = build(name)
    for site in structure.blocks[-1].sites:
        assert (site.fold is None) == (site.role in WITHOUT_FOLD.get(name, set())), site.name


@pytest.mark.parametrize("name", PRODUCER)
def test_producers_are_those_of_the_published_code(name: str) -> None:
    _, structure = build(name)
    folds = [site.fold for site in structure.blocks[0].sites if site.fold]
    assert [fold.producer for fold in folds] == PRODUCER[name]
    gemma = 1.0 if name.startswith("gemma") else 0.0
    assert {fold.norm_offset for fold in folds if fold.rows is None} == {gemma}


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_scaling_every_site_leaves_the_logits_and_moves_the_weights(name: str) -> None:
    model, structure = build(name)
    expected, generator = logits(model), torch.Generator().manual_seed(3)
    for block in structure.blocks:
        for site in block.sites:
            if site.fold is None:
                continue
            before = [block.module.get_submodule(n).weight.clone() for n in site.linears]
            columns = width(block.module, site.linears[0])
            s = tied_mean(torch.exp(0.5 * torch.randn(columns, generator=generator)), site.fold)
            scale_site_(block.module, site, s)
            for linear, old in zip(site.linears, before, strict=True):
                torch.testing.assert_close(block.module.get_submodule(linear).weight, old * s)
    error = (logits(model) - expected).abs().max() / expected.abs().max()
    assert error < 1e-4


@pytest.mark.parametrize("name", ["llama-mha-bias", "gemma2", "phi3-gqa", "opt", "gpt2", "gpt-neox", "mixtral"])
def test_one_site_alone_leaves_the_block_output(name: str) -> None:
    """Cancelling mistakes of two sites would pass the test of the whole; here each stands alone."""
    _, structure = build(name)
    for index, site in enumerate(structure.blocks[0].sites):
        if site.fold is None:
            continue
        model, fresh = build(name)
        expected = logits(model)
        block = fresh.blocks[0].module
        generator = torch.Generator().manual_seed(index)
        s = torch.exp(0.5 * torch.randn(width(block, site.linears[0]), generator=generator))
        scale_site_(block, site, tied_mean(s, site.fold))
        assert (logits(model) - expected).abs().max() / expected.abs().max() < 1e-4, site.name


def test_a_router_left_out_changes_the_logits() -> None:
    model, structure = build("mixtral")
    expected = logits(model)
    block = structure.blocks[0]
    site = next(s for s in block.sites if s.role == "mlp_in")
    assert site.fold is not None
    assert "mlp.gate" in site.fold.consumers
    consumers = tuple(c for c in site.fold.consumers if c != "mlp.gate")
    broken = dataclasses.replace(site, fold=dataclasses.replace(site.fold, consumers=consumers))
    scale_site_(block.module, broken, torch.exp(torch.randn(32, generator=torch.Generator().manual_seed(0))))
    assert (logits(model) - expected).abs().max() / expected.abs().max() > 1e-2


def test_one_fold_serves_all_experts_behind_a_norm() -> None:
    _, structure = build("mixtral")
    into = [site for site in structure.blocks[0].sites if site.role == "mlp_in"]
    assert all(site.fold is not None and site.fold.sites == tuple(s.name for s in into) for site in into)
    assert len({id(site.fold) for site in into}) == 1


@pytest.mark.parametrize("name", ["llama", "phi3-gqa"])
def test_tied_mean_is_constant_over_query_heads_that_share_a_value_head(name: str) -> None:
    _, structure = build(name)
    fold = structure.blocks[0].sites[1].fold
    assert fold is not None
    x = torch.rand(32, generator=torch.Generator().manual_seed(0)) + 0.1
    # 4 query heads of width 8, two to a value head: channels c and c + 8 of each half are tied.
    grouped = x.view(2, 2, 8)
    expected = grouped.prod(1, keepdim=True).sqrt().expand(2, 2, 8).reshape(32)
    torch.testing.assert_close(tied_mean(x, fold), expected)
    with pytest.raises(ValueError, match="tied_mean"):
        scale_site_(structure.blocks[0].module, structure.blocks[0].sites[1], x)


def test_unusable_scales_are_refused() -> None:
    _, structure = build("opt-350m")
    block = structure.blocks[0]
    qkv, out = block.sites[:2]
    with pytest.raises(ValueError, match="no fold"):
        scale_site_(block.module, qkv, torch.ones(32))
    for bad in (torch.ones(31), torch.zeros(32), -torch.ones(32), torch.full((32,), torch.nan)):
        with pytest.raises(ValueError, match="finite, positive, of shape"):
            scale_site_(block.module, out, bad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["llama", "gemma3", "opt", "gpt2", "mixtral"])
def test_half_precision_finds_the_same_folds(name: str, dtype: torch.dtype) -> None:
    _, reference = build(name)
    model, _ = build(name)
    found = find_structure(model.to(dtype))
    assert [site.fold for site in found.blocks[0].sites] == [site.fold for site in reference.blocks[0].sites]


def test_a_small_gain_hides_no_fold_in_float16() -> None:
    """Scaled by powers of two, float16 falls below its smallest normal number: the proof must not run in it."""
    model, reference = build("llama")
    with torch.no_grad():
        model.model.layers[0].input_layernorm.weight.mul_(1e-4)
    found = find_structure(model.half())
    assert [site.fold for site in found.blocks[0].sites] == [site.fold for site in reference.blocks[0].sites]
