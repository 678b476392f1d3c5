"""FlatQuant: a learned affine transform of what each linear reads, and learned clipping."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from quantbench.formats import Format
from quantbench.methods.grid import Grid
from quantbench.methods.rounding.affine import KroneckerAffine
from quantbench.methods.rounding.learned import LearnedClipping
from quantbench.methods.rounding.tuner import BlockTuner, ParameterGroup, Schedule, TunableTransform, TunableWeight
from quantbench.methods.stats import SiteStats

if TYPE_CHECKING:
    from quantbench.methods.variant import Variant


@dataclass
class FlatQuant(BlockTuner):
    """FlatQuant (Sun et al., arXiv 2410.09426) with the settings of the authors' code, for linears.

    What the linears of a site read becomes x P, P a Kronecker product of two small matrices behind a scale for each
    channel, and each weight W P^-T, rounded to nearest under a learned clipping. Both are tuned on the block's output
    with its inputs quantized as the activation axis says (whose clipping is not learned here), for the full-precision
    activations with ``stats=fp``, as the authors do. P runs online, where the authors merge some of them.

    epochs: passes over the samples; batch_size: samples a step; lr: of matrices and scales, ten times that of clipping,
    falling by a cosine to a thousandth; alpha: the scales start as SmoothQuant's; seed: of the first matrices.
    """

    epochs: int = 15
    batch_size: int = 4
    lr: float = 5e-3
    alpha: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise ValueError(f"rounding.epochs={self.epochs}: allowed are 0 and positive integers")
        if self.batch_size < 1:
            raise ValueError(f"rounding.batch_size={self.batch_size}: allowed is a positive integer")
        if not self.lr > 0:
            raise ValueError(f"rounding.lr={self.lr}: allowed are positive numbers")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"rounding.alpha={self.alpha}: allowed are values from 0 to 1")

    @property
    def needs_calibration(self) -> bool:
        return True

    @property
    def runs_online(self) -> bool:
        return True

    def check(self, variant: "Variant") -> None:
        super().check(variant)
        if variant.transform.runs_online:
            raise ValueError("rounding=flatquant transforms inputs online: allowed only with a transform that does not")

    def schedule(self, samples: int, format: Format) -> Schedule:
        batch_size = min(self.batch_size, samples)
        steps = self.epochs * (samples // batch_size)
        return Schedule(steps, batch_size, shuffled=False, decay="cosine", keep_best=False, floor=1e-3)

    def optimizer(self, groups: list[ParameterGroup]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups)

    def tunable(
        self, weight: Tensor, grid: Grid, stats: SiteStats | None, *, keep: Tensor | None = None
    ) -> TunableWeight:
        return LearnedClipping(weight, grid, None, keep, lr=10 * self.lr)

    def tunable_transform(self, weights: Sequence[Tensor], stats: SiteStats) -> TunableTransform | None:
        if not stats.count:
            return None
        generator = torch.Generator().manual_seed(self.seed)
        return KroneckerAffine(weights, stats.absmax, alpha=self.alpha, lr=self.lr, generator=generator)
