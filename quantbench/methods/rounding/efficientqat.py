"""EfficientQAT's first phase: all parameters of a block trained on its output."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from quantbench.formats import Format
from quantbench.methods.grid import Grid
from quantbench.methods.rounding.learned_step import LearnedStep, Rates, require_own_steps
from quantbench.methods.rounding.rtn import RTN
from quantbench.methods.rounding.tuner import BlockTuner, ParameterGroup, Schedule, TunableWeight
from quantbench.methods.stats import SiteStats

if TYPE_CHECKING:
    from quantbench.methods.variant import Variant

_LOW_BITS, _LOW_BITS_LR, _LR = 2, 2e-5, 1e-5


@dataclass
class EfficientQAT(BlockTuner):
    """Block-AP (Chen et al., arXiv 2407.11062, section 3.2): a block's weights, step sizes and zero-points are trained.

    AdamW on the block's mean squared output error, rates on a cosine down to 1/20; the last parameters are kept. The
    second phase, end to end, is ``training=scales``.

    epochs: passes over the samples; batch_size: samples a step; lr: of the weights, null is 1e-5 and 2e-5 at 2 bits;
    step_lr: of step sizes and zero-points; seed: of the order of the samples.
    """

    epochs: int = 2
    batch_size: int = 2
    lr: float | None = None
    step_lr: float = 1e-4
    floor: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise ValueError(f"rounding.epochs={self.epochs}: allowed are 0 and positive integers")
        if self.batch_size < 1:
            raise ValueError(f"rounding.batch_size={self.batch_size}: allowed is a positive integer")
        for name in ("lr", "step_lr"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ValueError(f"rounding.{name}={value}: allowed are positive numbers")
        if not 0 <= self.floor <= 1:
            raise ValueError(f"rounding.floor={self.floor}: allowed are values from 0 to 1")

    def check(self, variant: "Variant") -> None:
        super().check(variant)
        require_own_steps("rounding=efficientqat", variant.format)

    def schedule(self, samples: int, format: Format) -> Schedule:
        batch_size = min(self.batch_size, samples)
        steps = self.epochs * (samples // batch_size)
        return Schedule(
            steps, batch_size, shuffled=True, decay="cosine", keep_best=False, seed=self.seed, floor=self.floor
        )

    def optimizer(self, groups: list[ParameterGroup]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, weight_decay=0)

    def tunable(
        self, weight: Tensor, grid: Grid, stats: SiteStats | None, *, keep: Tensor | None = None
    ) -> TunableWeight:
        start = RTN().round(weight, grid, stats, keep=keep).weight
        lr = self.lr or (_LOW_BITS_LR if grid.format.bits <= _LOW_BITS else _LR)
        return LearnedStep(weight, start, Rates(lr, self.step_lr, self.step_lr))
