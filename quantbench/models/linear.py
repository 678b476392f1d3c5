"""The quantized linear layer, in its reference ("fake") execution."""

import torch
from torch import Tensor, nn

from quantbench.formats import QuantizedWeight


class QuantLinear(nn.Module):
    """y = x W^T + b with W = ``quantized.dequantize()``, computed in the dtype of the layer it replaces.

    ``quantized`` stays on the host: it is what gets packed, counted and exported; ``weight`` is what computes.
    """

    weight: Tensor

    def __init__(self, quantized: QuantizedWeight, bias: Tensor | None, *, dtype: torch.dtype) -> None:
        super().__init__()
        self.quantized = quantized
        self.out_features, self.in_features = quantized.shape
        self.register_buffer("weight", quantized.dequantize().to(dtype))
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        return nn.functional.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        shape = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{shape}, format={self.quantized.format}, bits_per_weight={self.quantized.bits_per_weight:.3f}"


def linear_at(root: nn.Module, name: str) -> nn.Linear:
    """The linear of a module that has this dotted name."""
    linear = root.get_submodule(name)
    assert isinstance(linear, nn.Linear)
    return linear
