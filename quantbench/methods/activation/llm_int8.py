"""LLM.int8(): the few channels with outliers are multiplied in the model's dtype, the rest in int8."""

from dataclasses import dataclass

import torch
from torch import Tensor

from quantbench.methods.activation.base import InputQuantizer, QuantizedInputs
from quantbench.methods.activation.dynamic import DynamicQuantizer
from quantbench.methods.histogram import Histogram


@dataclass(frozen=True)
class DecomposedQuantizer(InputQuantizer):
    """Channels where any token of the sequence reaches ``threshold`` stay; the others are rounded by ``rest``.

    The outliers themselves do not count for a token's range, other values of their channels do (bitsandbytes).
    """

    rest: DynamicQuantizer
    threshold: float

    def outlier_channels(self, x: Tensor) -> Tensor:
        """bool [..., 1, in] for x [..., tokens, in]."""
        return (x.abs() >= self.threshold).any(-2, keepdim=True)

    def __call__(self, x: Tensor) -> Tensor:
        rounded = self.rest(x.masked_fill(x.abs() >= self.threshold, 0))
        return torch.where(self.outlier_channels(x), x, rounded)


@dataclass
class LLMInt8(QuantizedInputs):
    """Mixed-precision decomposition (Dettmers et al., arXiv 2208.07339, section 3.2), as bitsandbytes computes it.

    threshold: magnitude from which a value is an outlier. Channels are chosen anew for each sequence, from the tokens
    that are computed together. Weights are what the other axes make of them, in the outliers' channels too: the
    library's default once a model is loaded in 8 bits, while the paper keeps those columns in 16.
    """

    threshold: float = 6.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.threshold > 0:
            raise ValueError(f"activation.threshold={self.threshold}: allowed are positive numbers")

    def quantizer(self, name: str, role: str, seen: Histogram | None = None) -> InputQuantizer | None:
        if not self.acts_on(name, role):
            return None
        return DecomposedQuantizer(DynamicQuantizer(self.format()), self.threshold)
