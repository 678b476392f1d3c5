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

    A token's range is that of its values in the other channels; not ``whole_channels``: of all its values below the
    threshold.
    """

    rest: DynamicQuantizer
    threshold: float
    whole_channels: bool = True

    def outlier_channels(self, x: Tensor) -> Tensor:
        """bool [..., 1, in] for x [..., tokens, in]."""
        return (x.abs() >= self.threshold).any(-2, keepdim=True)

    def ranged(self, x: Tensor) -> Tensor:
        """x [..., tokens, in] with zeros for what does not count for a token's range."""
        return x.masked_fill(self.outlier_channels(x) if self.whole_channels else x.abs() >= self.threshold, 0)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.where(self.outlier_channels(x), x, self.rest(self.ranged(x)))


@dataclass
class LLMInt8(QuantizedInputs):
    """Mixed-precision decomposition (Dettmers et al., arXiv 2208.07339, section 3.2).

    threshold: magnitude from which a value is an outlier. Channels are chosen anew for each sequence, from the tokens
    that are computed together. Weights are what the other axes make of them: with ``allocation=outlier_columns`` those
    of outlier channels stay in 16 bits as in the paper, otherwise they are codes, as where bitsandbytes loads a model.
    whole_channels: a token's range is that of the channels that are rounded (eq. 8); false: values below the threshold
    in other channels count too (bitsandbytes).
    """

    threshold: float = 6.0
    whole_channels: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.threshold > 0:
            raise ValueError(f"activation.threshold={self.threshold}: allowed are positive numbers")

    def quantizer(self, name: str, role: str, seen: Histogram | None = None) -> InputQuantizer | None:
        if not self.acts_on(name, role):
            return None
        return DecomposedQuantizer(DynamicQuantizer(self.format()), self.threshold, self.whole_channels)
