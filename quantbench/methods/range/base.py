"""The contract of the range axis."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from quantbench.formats import Format, GroupParams
from quantbench.methods.component import Component
from quantbench.methods.curvature import Curvature
from quantbench.methods.histogram import Histogram


@dataclass
class Range(Component, ABC):
    """Chooses the interval of weights that the codes cover.

    A rule that needs neither calibration nor Fisher information is handed many groups at once, as rows.
    """

    @abstractmethod
    def fit(self, weight: Tensor, format: Format, curvature: Curvature | None) -> GroupParams:
        """Parameters [rows, 1] of one group: weight [rows, g]; curvature of its g inputs, None when not known."""

    def for_linear(self, name: str) -> "Range":
        """The rule to use for the linear of this (dotted) name; most rules treat all alike."""
        return self


@dataclass
class CountedRange(Range, ABC):
    """A rule that can also choose the interval of values of which only a histogram is known."""

    @abstractmethod
    def fit_counts(self, seen: Histogram, format: Format) -> GroupParams:
        """Parameters [1, 1] for all that ``seen`` has counted."""


def weight_range(weight: Tensor) -> tuple[Tensor, Tensor]:
    """[min(w, 0), max(w, 0)] of each row: weight [rows, g] -> two of [rows, 1]. Zero is always inside."""
    return weight.amin(1, keepdim=True).clamp(max=0), weight.amax(1, keepdim=True).clamp(min=0)


def counted_range(seen: Histogram) -> tuple[Tensor, Tensor]:
    """[min(x, 0), max(x, 0)] of what was counted, [1, 1] each."""
    return torch.full((1, 1), seen.low), torch.full((1, 1), seen.high)
