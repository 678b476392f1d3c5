"""Learned step size quantization."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from quantbench.formats import QuantizedWeight
from quantbench.methods.rounding.learned_step import LearnedStep, Rates, lsq_step_sizes
from quantbench.methods.rounding.tuner import OwnWeight
from quantbench.methods.training.qat import QAT, check_steps_can_move

if TYPE_CHECKING:
    from quantbench.methods.variant import Variant

INITS = ("mean_abs", "walk")


@dataclass
class LSQ(QAT):
    """LSQ (Esser et al., arXiv 1902.08153): step sizes are trained with the weights.

    A step's gradient (eq. 3) is scaled by 1 / sqrt(N Q_P), N being the weights that share it. With a zero-point it is
    LSQ+'s (arXiv 2004.09576). init: ``mean_abs`` begins with the paper's step sizes 2 mean|w| / sqrt(Q_P), ``walk``
    with those that the walk fitted; null is mean_abs, or walk where there are zero-points. step_lr, zero_lr: learning
    rates of step sizes and zero-points; null is lr for steps, and zero-points that stay.
    """

    init: str | None = None
    step_lr: float | None = None
    zero_lr: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init not in (None, *INITS):
            raise ValueError(f"training.init={self.init}: allowed are {', '.join(INITS)} and null")
        for name in ("step_lr", "zero_lr"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ValueError(f"training.{name}={value}: allowed are positive numbers and null")

    def check(self, variant: "Variant") -> None:
        check_steps_can_move(self, variant)
        if self.init == "mean_abs" and variant.format.stored_zero_point:
            raise ValueError("training.init=mean_abs is for symmetric grids: with zero-points allowed is walk")

    def tunable(self, start: QuantizedWeight, latent: Tensor | None) -> OwnWeight:
        first = self.first(start, latent)
        if self.init == "mean_abs" or (self.init is None and not start.format.stored_zero_point):
            start = lsq_step_sizes(first, start)
        rates = Rates(self.lr, self.step_lr or self.lr, self.zero_lr)
        return LearnedStep(first, start, rates, margin=0.0, scaled_gradient=True)
