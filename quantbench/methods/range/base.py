"""The contract of the range axis."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from quantbench.formats import Format, GroupParams


@dataclass
class Range(ABC):
    """Chooses the interval of weights that the codes cover."""

    @property
    def needs_calibration(self) -> bool:
        """Whether the fit looks at the inputs' second moments."""
        return False

    @abstractmethod
    def fit(self, weight: Tensor, format: Format, hessian: Tensor | None) -> GroupParams:
        """Scale and zero-point [rows, 1] of one group: weight [rows, g]; hessian: mean x x^T of its inputs [g, g]."""

    def for_linear(self, name: str) -> "Range":
        """The rule to use for the linear of this (dotted) name; most rules treat all alike."""
        return self


def weight_range(weight: Tensor) -> tuple[Tensor, Tensor]:
    """[min(w, 0), max(w, 0)] of each row: weight [rows, g] -> two of [rows, 1]. Zero is always inside."""
    return weight.amin(1, keepdim=True).clamp_(max=0), weight.amax(1, keepdim=True).clamp_(min=0)
