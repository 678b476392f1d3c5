"""The contract of block-level tuners: what the shared loop asks of them, in tensors."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from quantbench.formats import LUT, Format, QuantizedWeight
from quantbench.methods.grid import Grid
from quantbench.methods.rounding.base import Rounded, Rounding
from quantbench.methods.stats import SiteStats

if TYPE_CHECKING:
    from quantbench.methods.variant import Variant

ParameterGroup = dict[str, Any]  # as torch.optim takes them: "params", "lr"


class Schedule(NamedTuple):
    """How the loop walks over the samples.

    steps: of the optimiser; batch_size: samples a step; shuffled: in a new random order each time they are used up
    (``seed``), otherwise always in their own; decay, floor: how the learning rates fall, and to what fraction;
    keep_best: end with the parameters of the step with the least loss, the first included, instead of the last ones.
    """

    steps: int
    batch_size: int
    shuffled: bool
    decay: str
    keep_best: bool
    seed: int = 0
    floor: float = 0.0


class Tunable(ABC):
    """Something of a block that is adjusted while the block's output error falls."""

    @abstractmethod
    def groups(self) -> list[ParameterGroup]:
        """The parameters, leaf tensors that require gradients, and their learning rates."""

    def project_(self) -> None:
        """Put the parameters back into their domain after a step."""
        return


class TunableWeight(Tunable):
    """The quantization of one matrix W [out, in].

    Both methods are given the full-precision W, which other tunables of the block may have rescaled.
    """

    @abstractmethod
    def fake_quantized(self, weight: Tensor) -> Tensor:
        """The values that the codes would stand for, differentiable in the parameters and in ``weight``."""

    @abstractmethod
    def quantized(self, weight: Tensor) -> QuantizedWeight:
        """The result."""


class OwnWeight(TunableWeight):
    """A matrix with weights of its own, which take the place of whatever weights the methods are given."""

    @abstractmethod
    def value(self) -> Tensor:
        """The values that the codes stand for, differentiable in the parameters."""

    @abstractmethod
    def result(self) -> QuantizedWeight:
        """The result."""

    def fake_quantized(self, weight: Tensor) -> Tensor:
        return self.value()

    def quantized(self, weight: Tensor) -> QuantizedWeight:
        return self.result()


class TunableScale(Tunable):
    """A function-preserving change x -> (x - shift) / scale of the inputs [in] of a site."""

    @abstractmethod
    def scale(self) -> Tensor:
        """Positive [in], differentiable in the parameters."""

    @abstractmethod
    def shift(self) -> Tensor | None:
        """[in], or None for no shift."""


class TunableTransform(Tunable):
    """An invertible change of basis x -> x P of the inputs [in] of a site, computed while the model runs."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """What P is made of, differentiable in the parameters."""

    @abstractmethod
    def folded(self, weight: Tensor) -> Tensor:
        """W P^-T [out, in], which gives for x P what ``weight`` W gives for x; differentiable."""


@dataclass
class BlockTuner(Rounding):
    """A rounding that is tuned on the output of the whole decoder block.

    Each block is given the outputs of the already quantized blocks (``stats=propagate``) or the full-precision
    activations (``stats=fp``) and learns to give what the full-precision block gives for full-precision inputs.
    """

    def check(self, variant: "Variant") -> None:
        if isinstance(variant.format, LUT):
            name = type(self).__name__.lower()
            raise ValueError(f"rounding={name} learns ranges, which format=lut has not: allowed is any other format")

    @property
    def rescales(self) -> bool:
        """Whether it changes the inputs of linears: whether :meth:`tunable_scale` gives anything."""
        return False

    @property
    def augmented(self) -> bool:
        """Whether the full-precision block's output for the inputs that tuning sees is a second target."""
        return False

    @abstractmethod
    def schedule(self, samples: int, format: Format) -> Schedule:
        """The loop for so many calibration samples."""

    @abstractmethod
    def optimizer(self, groups: list[ParameterGroup]) -> torch.optim.Optimizer:
        """The optimiser of these parameters."""

    @abstractmethod
    def tunable(
        self, weight: Tensor, grid: Grid, stats: SiteStats | None, *, keep: Tensor | None = None
    ) -> TunableWeight:
        """A matrix [out, in] at the start of tuning; arguments as of :meth:`Rounding.round`."""

    def tunable_scale(
        self, weights: Sequence[Tensor], stats: SiteStats, ties: Tensor | None, *, shift: bool
    ) -> TunableScale | None:
        """The scale of a site at the start of tuning, None to leave it alone.

        weights: the linears that read it [out_i, in]; ties: int64 [in], equal for channels that must share a scale;
        shift: whether the site can take a shift.
        """
        return None

    def tunable_transform(self, weights: Sequence[Tensor], stats: SiteStats) -> TunableTransform | None:
        """The change of basis of a site's inputs at the start of tuning, None to leave them.

        weights: the linears that read it [out_i, in].
        """
        return None

    def round(self, weight: Tensor, grid: Grid, stats: SiteStats | None, *, keep: Tensor | None = None) -> Rounded:
        """The matrix as it is at the start of tuning."""
        return Rounded(self.tunable(weight, grid, stats, keep=keep).quantized(weight))
