"""Quantization-aware training: the weights move, their rounding is part of the model."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from quantbench.formats import LUT, QuantizedWeight
from quantbench.methods.rounding.learned_step import LearnedStep, Rates, require_own_steps
from quantbench.methods.rounding.tuner import OwnWeight
from quantbench.methods.training.base import FineTuning

if TYPE_CHECKING:
    from quantbench.methods.variant import Variant

STARTS = ("original", "dequantized")


@dataclass
class QAT(FineTuning):
    """Fake quantization with a straight-through estimator, on the grid that the walk fitted.

    Logits of the full-precision model are the only target (LLM-QAT, arXiv 2305.17888: AdamW, rate 2e-5, cosine decay).
    start: latent weights begin as those that were rounded (``original``), so that their codes are the nearest ones, or
    as the walk's codes mean them (``dequantized``), so that training begins where GPTQ, say, ended.
    """

    start: str = "original"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start not in STARTS:
            raise ValueError(f"training.start={self.start}: allowed are {', '.join(STARTS)}")

    def check(self, variant: "Variant") -> None:
        check_weights_are_quantized(self, variant)

    def tunable(self, start: QuantizedWeight, latent: Tensor | None) -> OwnWeight:
        return LearnedStep(self.first(start, latent), start, Rates(self.lr, None, None))

    def first(self, start: QuantizedWeight, latent: Tensor | None) -> Tensor:
        """The latent weights at the start."""
        assert latent is not None
        return latent if self.start == "original" else start.dequantize()


def check_weights_are_quantized(training: FineTuning, variant: "Variant") -> None:
    """Refuse what has no weights to train on their grid.

    Raises:
        ValueError: names the setting and what is allowed.
    """
    name = type(training).__name__.lower()
    if not variant.rounding.quantizes:
        raise ValueError(f"training={name} trains quantized weights: allowed is any rounding but none")
    if isinstance(variant.format, LUT):
        raise ValueError(f"training={name} moves weights over a grid with steps: allowed is any format but lut")


def check_steps_can_move(training: FineTuning, variant: "Variant") -> None:
    """Refuse what has no weights on their grid, and formats whose step sizes are not numbers of their own.

    Raises:
        ValueError: names the setting and what is allowed.
    """
    check_weights_are_quantized(training, variant)
    require_own_steps(f"training={type(training).__name__.lower()}", variant.format)
