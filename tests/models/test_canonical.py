"""Canonical form: the same function, with every block matrix in an nn.Linear."""

import pytest
import torch
from torch import nn

from quantbench.errors import InputError
from quantbench.models.canonical import canonicalise_
from quantbench.models.experts import Experts
from tests.models import tiny


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral", "qwen3-moe"])
@torch.no_grad()
def test_logits_equal_those_of_the_library(name: str) -> None:
    model, ids = tiny.build(name), tiny.token_ids()
    expected = model(ids).logits
    canonicalise_(model)
    assert (model(ids).logits - expected).abs().max() <= 1e-5
    assert {type(m).__name__ for m in model.modules() if "Conv1D" in type(m).__name__} == set()
    assert all(p.ndim < 3 for p in model.parameters())
    assert not any(p.requires_grad for p in model.parameters())


@torch.no_grad()
def test_experts_equal_a_dense_float64_sum() -> None:
    model = tiny.build("mixtral")
    canonicalise_(model)
    experts = next(m for m in model.modules() if isinstance(m, Experts)).double()
    x = torch.randn(7, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    index, share = torch.tensor([[0, 2]] * 3 + [[2, 3]] * 4), torch.rand(7, 2, dtype=torch.float64)
    dense = torch.zeros_like(x)
    for e, expert in enumerate(experts):
        gate, up, down = (getattr(expert, f"{part}_proj").weight for part in ("gate", "up", "down"))
        g = x @ gate.T
        dense += (g * torch.sigmoid(g) * (x @ up.T)) @ down.T * (share * (index == e)).sum(1, keepdim=True)
    torch.testing.assert_close(experts(x, index, share), dense)


def test_only_experts_with_tokens_run_and_gate_and_up_get_one_tensor() -> None:
    model = tiny.build("mixtral")
    canonicalise_(model)
    experts = next(m for m in model.modules() if isinstance(m, Experts))
    seen: dict[int, list[torch.Tensor]] = {i: [] for i in range(4)}
    for i, expert in enumerate(experts):
        for linear in (expert.gate_proj, expert.up_proj):
            linear.register_forward_pre_hook(lambda _, args, i=i: seen[i].append(args[0]))
    experts(torch.randn(5, 32), torch.tensor([[1, 3]] * 5), torch.rand(5, 2))
    assert [len(seen[i]) for i in range(4)] == [0, 2, 0, 2]
    assert seen[1][0] is seen[1][1]


def test_fused_experts_of_another_layout_are_refused() -> None:
    class Interleaved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate_up_proj = nn.Parameter(torch.randn(2, 8, 4))
            self.down_proj = nn.Parameter(torch.randn(2, 4, 4))
            self.act_fn = torch.relu

        def forward(self, x: torch.Tensor, index: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
            out = torch.zeros_like(x)
            for slot in range(index.shape[1]):
                both = torch.einsum("th,toh->to", x, self.gate_up_proj[index[:, slot]])
                y = torch.relu(both[:, ::2]) * both[:, 1::2]
                out += share[:, slot, None] * torch.einsum("ti,thi->th", y, self.down_proj[index[:, slot]])
            return out

    model = nn.ModuleDict({"experts": Interleaved()})
    with pytest.raises(InputError, match=r"experts \(Interleaved\) holds fused weights in a layout"):
        canonicalise_(model)
    with pytest.raises(InputError, match="holds fused weights"):
        canonicalise_(nn.ModuleDict({"experts": nn.ParameterDict({"w1": torch.zeros(2, 3, 4)})}))
