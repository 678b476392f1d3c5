"""Training of step sizes alone."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from quantbench.formats import QuantizedWeight
from quantbench.methods.rounding.tuner import OwnWeight
from quantbench.methods.training.base import FineTuning
from quantbench.methods.training.qat import check_steps_can_move
from quantbench.methods.training.weights import FixedCodes

if TYPE_CHECKING:
    from quantbench.methods.variant import Variant


@dataclass
class Scales(FineTuning):
    """Codes and zero-points stay as the walk left them; only step sizes are trained, end to end.

    EfficientQAT's second phase, E2E-QP (arXiv 2407.11062, section 3.3), which follows its Block-AP
    (``rounding=efficientqat``) and trains on the text alone.
    """

    kl: float = 0.0
    ce: float = 1.0

    @property
    def needs_latent(self) -> bool:
        return False

    def check(self, variant: "Variant") -> None:
        check_steps_can_move(self, variant)

    def tunable(self, start: QuantizedWeight, latent: Tensor | None) -> OwnWeight:
        return FixedCodes(start, self.lr)
