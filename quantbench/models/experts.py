"""Mixture-of-experts layers whose every expert is three nn.Linear, so that each can be calibrated and quantized."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Expert(nn.Module):
    """A gated MLP, down(act(gate(x)) * up(x)); gate and up are handed the same tensor object."""

    def __init__(self, gate: Tensor, up: Tensor, down: Tensor, act_fn: Callable[[Tensor], Tensor]) -> None:
        """gate, up: [intermediate, hidden]; down: [hidden, intermediate]. The weights are copied."""
        super().__init__()
        self.gate_proj = linear_from(gate)
        self.up_proj = linear_from(up)
        self.down_proj = linear_from(down)
        self.act_fn = act_fn

    def forward(self, x: Tensor) -> Tensor:
        """x [tokens, hidden] -> [tokens, hidden]."""
        out: Tensor = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
        return out


class Experts(nn.ModuleList):
    """Routed experts with the call signature of the fused layers of transformers 5 that it stands in for."""

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Sum of the chosen experts' outputs, weighted; experts that got no token are not run.

        hidden_states [tokens, hidden]; top_k_index, top_k_weights [tokens, k] -> [tokens, hidden].
        """
        out = torch.zeros_like(hidden_states)
        for index in torch.unique(top_k_index).tolist():
            token, slot = torch.where(top_k_index == index)
            y = self[index](hidden_states[token]) * top_k_weights[token, slot, None]
            out.index_add_(0, token, y.to(out.dtype))
        return out


def linear_from(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """An nn.Linear that owns a contiguous copy of ``weight`` [out, in] and ``bias`` [out]; no gradients."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach().clone(memory_format=torch.contiguous_format), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return linear
