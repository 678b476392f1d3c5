"""What rounding one linear, and nothing else, does to the model: the sensitivities of mixed precision."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from quantbench.methods.stats import SiteStats
from quantbench.models.structure import Block


@dataclass(frozen=True)
class Trial:
    """One linear, rounded: its weight and the rounded one [out, in], what its inputs were in full precision.

    tokens: all tokens of the calibration, which is more than ``stats.count`` for a routed expert.
    """

    block: Block
    name: str
    weight: Tensor
    rounded: Tensor
    stats: SiteStats
    tokens: int


class Sensitivity(ABC):
    """Measures trials, block by block in order."""

    @abstractmethod
    def loss(self, trial: Trial) -> float:
        """What the rounding costs."""

    def advance(self, block: Block) -> None:  # noqa: B027 (most have nothing to do)
        """No more trials of this block will come."""


@dataclass(frozen=True)
class OutputError(Sensitivity):
    """Squared error of the linear's output, mean over all tokens of the model: tr(dW H dW^T).

    An expert counts by the share of tokens that reached it; one that none reached costs nothing. relative: as a
    fraction of the output's own energy.
    """

    relative: bool

    def loss(self, trial: Trial) -> float:
        stats = trial.stats
        share = stats.count / trial.tokens
        error = stats.output_error(trial.rounded - trial.weight)
        if not self.relative:
            return share * error
        return share * error / max(stats.output_error(trial.weight), torch.finfo(torch.float32).tiny)


@dataclass(frozen=True)
class FisherError(Sensitivity):
    """Second-order change of the loss with the diagonal of the Fisher information: sum F dW^2.

    fisher: mean squared gradients [out, in], by the linear's full name.
    """

    fisher: Mapping[str, Tensor]

    def loss(self, trial: Trial) -> float:
        return self.change(f"{trial.block.name}.{trial.name}", trial.rounded - trial.weight)

    def change(self, name: str, delta: Tensor) -> float:
        """Of a linear by its full name, whose weight changes by ``delta`` [out, in]."""
        return float((self.fisher[name].to(delta.device) * delta.square()).sum())
