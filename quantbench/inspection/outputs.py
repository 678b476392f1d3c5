"""How far the outputs of quantized linears are from those in full precision, on inputs in full precision."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quantbench.models.branch import VariantResult
from quantbench.models.linear import linear_at
from quantbench.models.structure import Block, Site

_TINY = torch.finfo(torch.float32).tiny


class OutputErrors:
    """Collects ||q(x) Q^T - x W^T||^2 and ||x W^T||^2 batch by batch, for linears of one block after the other.

    Q: the quantized weight; q: what quantizes the inputs, where anything does. Biases cancel. Other than the error that
    a run records, this is known of every method, and on the same inputs for all that share a transform.
    """

    def __init__(self, model: nn.Module, result: VariantResult, device: torch.device) -> None:
        """model: with the weights W."""
        self._model, self._result, self._device = model, result, device
        self._matrices: dict[str, tuple[Tensor, Tensor]] = {}
        self._block: Block | None = None
        self._sums: dict[str, tuple[float, float]] = {}

    def add(self, block: Block, site: Site, inputs: Tensor) -> None:
        """Further inputs [..., tokens, in] of a site."""
        if block is not self._block:
            self._block, self._matrices = block, {}
        for linear in site.linears:
            name = f"{block.name}.{linear}"
            if name not in self._result.weights and name not in self._result.inputs:
                continue
            if name not in self._matrices:
                self._matrices[name] = self._pair(name)
            full, rounded = self._matrices[name]
            quantizer = self._result.inputs.get(name)
            read = inputs if quantizer is None else quantizer(inputs)
            expected = F.linear(inputs.float(), full)
            error = F.linear(read.float(), rounded) - expected
            lost, whole = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = lost + float(error.square().sum()), whole + float(expected.square().sum())

    def _pair(self, name: str) -> tuple[Tensor, Tensor]:
        full = linear_at(self._model, name).weight.to(self._device).float()
        weight = self._result.weights.get(name)
        return full, full if weight is None else weight.dequantize().to(full)

    def of(self, name: str) -> float | None:
        """The relative squared error of a linear's outputs; None where none was seen, or nothing is quantized."""
        if name not in self._sums:
            return None
        lost, whole = self._sums[name]
        return lost / max(whole, _TINY)
