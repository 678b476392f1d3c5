"""OmniQuant: learned clipping and learned scaling of channels."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quantbench.formats import Format
from quantbench.methods.grid import Grid
from quantbench.methods.rounding.learned import LearnedClipping
from quantbench.methods.rounding.tuner import BlockTuner, ParameterGroup, Schedule, TunableScale, TunableWeight
from quantbench.methods.stats import SiteStats

_SMALLEST_SCALE = 1e-2  # the authors truncate scales there
_SMALLEST = 1e-5
_EPOCHS, _LOW_BITS, _LOW_BITS_EPOCHS = 20, 2, 40


@dataclass
class OmniQuant(BlockTuner):
    """OmniQuant (Shao et al., arXiv 2308.13137), defaults of the authors' code and scripts for weight-only models.

    Learned weight clipping: the ends of each group's range are multiplied by sigmoids of learned logits (eq. 2).
    ``let`` adds the learned equivalent transform (eq. 3): a scale for each input channel of the attention's and of the
    MLP's first linears and of the attention's output, folded into what comes before; where there are biases, a shift
    too. The authors leave it off for weight-only Llama and on for OPT. AdamW on the block's mean squared output error;
    the samples come in their own order and the last parameters are kept.

    epochs: passes over the samples, null is 20 and 40 at 2 bits; batch_size: samples a step; lwc_lr, let_lr: learning
    rates of clipping and of the transform; alpha: scales start at max|x|^alpha / max|w|^(1 - alpha); aug_loss: also
    approach the full-precision block's output for the quantized blocks' activations.
    """

    epochs: int | None = None
    batch_size: int = 1
    lwc_lr: float = 1e-2
    let: bool = False
    let_lr: float = 5e-3
    alpha: float = 0.5
    aug_loss: bool = False

    def __post_init__(self) -> None:
        if self.epochs is not None and self.epochs < 0:
            raise ValueError(f"rounding.epochs={self.epochs}: allowed are 0, positive integers and null")
        if self.batch_size < 1:
            raise ValueError(f"rounding.batch_size={self.batch_size}: allowed is a positive integer")
        for name in ("lwc_lr", "let_lr"):
            if not getattr(self, name) > 0:
                raise ValueError(f"rounding.{name}={getattr(self, name)}: allowed are positive numbers")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"rounding.alpha={self.alpha}: allowed are values from 0 to 1")

    @property
    def needs_calibration(self) -> bool:
        return self.let

    @property
    def rescales(self) -> bool:
        return self.let

    @property
    def augmented(self) -> bool:
        return self.aug_loss

    def schedule(self, samples: int, format: Format) -> Schedule:
        epochs = self.epochs
        if epochs is None:
            epochs = _LOW_BITS_EPOCHS if format.bits <= _LOW_BITS else _EPOCHS
        batch_size = min(self.batch_size, samples)
        steps = epochs * (samples // batch_size)
        return Schedule(steps, batch_size, shuffled=False, decay="none", keep_best=False)

    def optimizer(self, groups: list[ParameterGroup]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, weight_decay=0)

    def tunable(
        self, weight: Tensor, grid: Grid, stats: SiteStats | None, *, keep: Tensor | None = None
    ) -> TunableWeight:
        return LearnedClipping(weight, grid, stats, keep, lr=self.lwc_lr)

    def tunable_scale(
        self, weights: Sequence[Tensor], stats: SiteStats, ties: Tensor | None, *, shift: bool
    ) -> TunableScale | None:
        if not self.let or not stats.count:
            return None
        largest = torch.stack([w.abs().amax(0) for w in weights]).amax(0).clamp(min=_SMALLEST)
        start = stats.absmax.clamp(min=_SMALLEST).pow(self.alpha) / largest.pow(1 - self.alpha)
        return _EquivalentTransform(start, ties, shift=shift, lr=self.let_lr)


class _EquivalentTransform(TunableScale):
    def __init__(self, start: Tensor, ties: Tensor | None, *, shift: bool, lr: float) -> None:
        self.lr = lr
        self.index = torch.arange(len(start), device=start.device)
        if ties is not None:  # one parameter for the channels that must agree; it starts at their geometric mean
            self.index = ties.to(start.device).unique(return_inverse=True)[1]
        total = torch.zeros(int(self.index.max()) + 1, device=start.device).index_add_(0, self.index, start.log())
        mean = (total / torch.bincount(self.index)).exp()
        self.free_scale = mean.clamp(min=_SMALLEST_SCALE).requires_grad_()
        self.free_shift = torch.zeros_like(mean).requires_grad_() if shift else None

    def groups(self) -> list[ParameterGroup]:
        free = [self.free_scale] if self.free_shift is None else [self.free_scale, self.free_shift]
        return [{"params": free, "lr": self.lr}]

    @torch.no_grad()
    def project_(self) -> None:
        self.free_scale.clamp_(min=_SMALLEST_SCALE)

    def scale(self) -> Tensor:
        return self.free_scale[self.index]

    def shift(self) -> Tensor | None:
        return None if self.free_shift is None else self.free_shift[self.index]
