"""Linear layers with quantized weights, quantized inputs or both, in their reference ("fake") execution."""

import torch
from torch import Tensor, nn

from quantbench.formats import QuantizedWeight
from quantbench.methods.activation import InputQuantizer


class QuantLinear(nn.Module):
    """y = q(x) W^T + b with W = ``quantized.dequantize()``, computed in the dtype of the layer it replaces.

    ``quantized`` stays on the host: it is what gets packed, counted and exported; ``weight`` is what computes. q is
    ``inputs``, None where the inputs stay as they are; it acts inside, so that hooks see what comes before it.
    """

    weight: Tensor

    def __init__(
        self,
        quantized: QuantizedWeight,
        bias: Tensor | None,
        *,
        dtype: torch.dtype,
        inputs: InputQuantizer | None = None,
    ) -> None:
        super().__init__()
        self.quantized, self.inputs = quantized, inputs
        self.out_features, self.in_features = quantized.shape
        self.register_buffer("weight", quantized.dequantize().to(dtype))
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        return nn.functional.linear(read(x, self.inputs), self.weight, self.bias)

    def extra_repr(self) -> str:
        shape = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{shape}, format={self.quantized.format}, bits_per_weight={self.quantized.bits_per_weight:.3f}"


class InputQuantLinear(nn.Linear):
    """y = q(x) W^T + b: a linear whose weights stay in full precision, and are those of ``linear``."""

    def __init__(self, linear: nn.Linear, inputs: InputQuantizer) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.inputs = linear.in_features, linear.out_features, inputs
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        return super().forward(read(x, self.inputs))


def read(x: Tensor, inputs: InputQuantizer | None) -> Tensor:
    """What a linear reads of x; a gradient passes the quantizer as if it were not there (straight-through)."""
    if inputs is None:
        return x
    quantized = inputs(x.detach())
    return x + (quantized - x).detach() if x.requires_grad else quantized


def linear_at(root: nn.Module, name: str) -> nn.Linear:
    """The linear of a module that has this dotted name."""
    linear = root.get_submodule(name)
    assert isinstance(linear, nn.Linear)
    return linear
