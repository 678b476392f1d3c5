"""The structure found in each architecture against the list of its linears that a reader of its code would write."""

import pytest
import torch
from torch import nn

from quantbench.errors import InputError
from quantbench.models.canonical import canonicalise_
from quantbench.models.structure import find_structure
from tests.models import tiny

QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
GATED = [
    (QKV, "attention_in", "self_attn"),
    (("self_attn.o_proj",), "attention_out", None),
    (("mlp.gate_proj", "mlp.up_proj"), "mlp_in", "mlp"),
    (("mlp.down_proj",), "mlp_out", None),
]
OPT = [
    (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "attention_in", "self_attn"),
    (("self_attn.out_proj",), "attention_out", None),
    (("fc1",), "mlp_in", None),
    (("fc2",), "mlp_out", None),
]
NEOX = [
    (("attention.query_key_value",), "attention_in", "attention"),
    (("attention.dense",), "attention_out", None),
    (("mlp.dense_h_to_4h",), "mlp_in", None),
    (("mlp.dense_4h_to_h",), "mlp_out", None),
]
PHI3 = [
    (("self_attn.qkv_proj",), "attention_in", "self_attn"),
    (("self_attn.o_proj",), "attention_out", None),
    (("mlp.gate_up_proj",), "mlp_in", "mlp"),
    (("mlp.down_proj",), "mlp_out", None),
]
GPT2 = [
    (("attn.c_attn",), "attention_in", "attn"),
    (("attn.c_proj",), "attention_out", None),
    (("mlp.c_fc",), "mlp_in", None),
    (("mlp.c_proj",), "mlp_out", None),
]


def moe(experts: int) -> list[tuple[tuple[str, ...], str, str | None]]:
    sites = GATED[:2]
    for i in range(experts):
        name = f"mlp.experts.{i}"
        sites = [
            *sites,
            ((f"{name}.gate_proj", f"{name}.up_proj"), "mlp_in", name),
            ((f"{name}.down_proj",), "mlp_out", None),
        ]
    return sites


EXPECTED = {
    **dict.fromkeys(["llama", "llama-mha-bias", "mistral", "qwen2", "qwen3", "gemma2", "gemma3"], ("model", GATED)),
    **dict.fromkeys(["phi3", "phi3-gqa"], ("model", PHI3)),
    **dict.fromkeys(["opt", "opt-350m", "opt-gelu"], ("model.decoder", OPT)),
    **dict.fromkeys(["gpt-neox", "gpt-neox-sequential"], ("gpt_neox", NEOX)),
    "gpt2": ("transformer", GPT2),
    "mixtral": ("model", moe(4)),
    "qwen3-moe": ("model", moe(32)),
}
LISTS = {"gpt2": "h"}


def canonical(name: str) -> nn.Module:
    model = tiny.build(name)
    canonicalise_(model)
    return model


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_sites_roles_and_parents_are_those_of_the_published_code(name: str) -> None:
    model = canonical(name)
    structure = find_structure(model)
    prefix, expected = EXPECTED[name]
    assert structure.body_prefix == prefix
    assert structure.head is model.get_output_embeddings()
    assert [b.name for b in structure.blocks] == [
        f"{prefix}.{LISTS.get(name, 'layers')}.{i}" for i in range(model.config.num_hidden_layers)
    ]
    for block in structure.blocks:
        assert model.get_submodule(block.name) is block.module
        dense = name == "qwen3-moe" and block.index == 0
        found = [(site.linears, site.role, site.parent) for site in block.sites]
        # OPT computes q, k and v in an order of its own choice; within a site the order carries no meaning.
        assert [(set(linears), *rest) for linears, *rest in found] == [
            (set(linears), *rest) for linears, *rest in (GATED if dense else expected)
        ]
        assert len({site.name for site in block.sites}) == len(block.sites)


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_all_two_dimensional_block_weights_but_routers_are_targets(name: str) -> None:
    for block in find_structure(canonical(name)).blocks:
        matrices = {n.removesuffix(".weight") for n, p in block.module.named_parameters() if p.ndim == 2}
        assert set(block.linears) == {n for n in matrices if n != "mlp.gate"}
        assert len(block.linears) == len(set(block.linears))


def test_an_nn_linear_router_of_a_foreign_expert_list_is_no_target() -> None:
    class Expert(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.experts = nn.Linear(8, 4), nn.ModuleList(Expert() for _ in range(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            flat = x.flatten(0, -2)
            choice = self.gate(flat).argmax(-1)
            return x + torch.stack([self.experts[c](t) for c, t in zip(choice.tolist(), flat, strict=True)]).view_as(x)

    structure = find_structure(Toy([Layer(), Layer()]))
    expected = [f"experts.{i}.{j}" for i in range(4) for j in (0, 2)]
    assert [list(b.linears) for b in structure.blocks] == [expected, expected]


def test_parallel_branches_that_read_one_norm_share_one_site() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.a, self.b = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            normed = self.norm(x)
            return x + self.a(normed) + self.b(normed)

    (site,) = find_structure(Toy([Layer()])).blocks[0].sites
    assert site.linears == ("a", "b")
    assert site.parent == ""
    assert site.fold is not None
    assert site.fold.consumers == ("a", "b")


def test_a_model_without_blocks_says_what_was_looked_for() -> None:
    with pytest.raises(InputError, match="no decoder blocks found in Toy: looked for a ModuleList"):
        find_structure(Toy([nn.Identity()]))


def test_a_linear_that_the_forward_pass_skips_is_named() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    with pytest.raises(InputError, match=r"blocks\.0.*unused"):
        find_structure(Toy([Layer()]))


class Toy(nn.Module):
    """The least that counts as a causal language model."""

    class Config:
        hidden_size, num_attention_heads = 8, 2

        def get_text_config(self) -> "Toy.Config":
            return self

    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.config = self.Config()
        self.embed, self.blocks, self.head = nn.Embedding(16, 8), nn.ModuleList(blocks), nn.Linear(8, 16)

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, input_ids: torch.Tensor, use_cache: bool = False) -> torch.Tensor:
        x = self.embed(input_ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x)
