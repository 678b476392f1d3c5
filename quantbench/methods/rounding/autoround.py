"""AutoRound: rounding offsets and range factors learned by the signs of gradients."""

from dataclasses import dataclass

import torch
from torch import Tensor

from quantbench.formats import Format
from quantbench.methods.grid import Grid
from quantbench.methods.groups import grouped
from quantbench.methods.rounding.learned import LearnedRange
from quantbench.methods.rounding.tuner import BlockTuner, ParameterGroup, Schedule, TunableWeight
from quantbench.methods.stats import SiteStats

_MANY_ITERATIONS, _LOW_BITS = 1000, 3


@dataclass
class AutoRound(BlockTuner):
    """AutoRound, or SignRound (Cheng et al., arXiv 2309.05516), as auto-round 0.16 runs it.

    For each weight an offset V in [-0.5, 0.5] is added before rounding, and the ends of each group's range are
    multiplied by factors in [0, 1] (eq. 3-4). Both follow the sign of the gradient of the block's mean squared output
    error, with a learning rate that falls linearly to zero; the parameters of the step with the least loss are kept.

    iterations: steps for each block; batch_size: calibration samples a step. lr, minmax_lr: of offsets and of factors;
    null is 1/iterations (2/iterations at 3 bits and fewer from 1000 iterations on), and lr for minmax_lr. seed: of the
    order of the samples. The range axis gives the range that the factors shrink.
    """

    iterations: int = 200
    batch_size: int = 8
    lr: float | None = None
    minmax_lr: float | None = None
    seed: int = 42

    def __post_init__(self) -> None:
        if self.iterations < 0:
            raise ValueError(f"rounding.iterations={self.iterations}: allowed are 0 and positive integers")
        if self.batch_size < 1:
            raise ValueError(f"rounding.batch_size={self.batch_size}: allowed is a positive integer")
        for name in ("lr", "minmax_lr"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ValueError(f"rounding.{name}={value}: allowed are positive numbers and null")

    def schedule(self, samples: int, format: Format) -> Schedule:
        batch_size = min(self.batch_size, samples)
        return Schedule(self.iterations, batch_size, shuffled=True, decay="linear", keep_best=True, seed=self.seed)

    def optimizer(self, groups: list[ParameterGroup]) -> torch.optim.Optimizer:
        return SignSGD(groups)

    def tunable(
        self, weight: Tensor, grid: Grid, stats: SiteStats | None, *, keep: Tensor | None = None
    ) -> TunableWeight:
        faster = self.iterations >= _MANY_ITERATIONS and grid.format.bits <= _LOW_BITS
        lr = self.lr or (2.0 if faster else 1.0) / max(self.iterations, 1)
        return _SignRound(weight, grid, stats, keep, lr=lr, minmax_lr=self.minmax_lr or lr)


class _SignRound(LearnedRange):
    def __init__(
        self,
        weight: Tensor,
        grid: Grid,
        stats: SiteStats | None,
        keep: Tensor | None,
        *,
        lr: float,
        minmax_lr: float,
    ) -> None:
        super().__init__(weight, grid, stats, keep)
        self.lr, self.minmax_lr = lr, minmax_lr
        self.rounding = torch.zeros_like(grouped(weight, self.format)).requires_grad_()
        self.low_factor = torch.ones(self.group_shape, device=weight.device).requires_grad_()
        self.high_factor = self.low_factor.detach().clone().requires_grad_()

    def groups(self) -> list[ParameterGroup]:
        return [
            {"params": [self.rounding], "lr": self.lr},
            {"params": [self.low_factor, self.high_factor], "lr": self.minmax_lr},
        ]

    @torch.no_grad()
    def project_(self) -> None:
        self.rounding.clamp_(-0.5, 0.5)
        self.low_factor.clamp_(0, 1)
        self.high_factor.clamp_(0, 1)

    def factors(self) -> tuple[Tensor, Tensor]:
        return self.low_factor, self.high_factor

    def offset(self) -> Tensor:
        return self.rounding


class SignSGD(torch.optim.Optimizer):
    """Every parameter moves by the learning rate against the sign of its gradient."""

    def __init__(self, groups: list[ParameterGroup]) -> None:
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step; parameters without a gradient stay."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.add_(parameter.grad.sign(), alpha=-group["lr"])
