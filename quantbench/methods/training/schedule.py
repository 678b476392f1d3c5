"""Which windows each step of a training sees, and how fast it learns."""

from typing import NamedTuple

import torch

from quantbench.methods.decay import decayed


class Schedule(NamedTuple):
    """steps: of the optimiser; batch_size: windows a step; warmup: steps in which rates rise; hold: the fraction of
    the others in which they stay; decay, floor: how they fall from then on, and to what fraction; seed: of the order of
    the windows."""

    steps: int
    batch_size: int
    warmup: int = 0
    decay: str = "none"
    floor: float = 0.0
    seed: int = 0
    hold: float = 0.0

    def factor(self, step: int) -> float:
        """What learning rates are multiplied with at a step, counted from 0."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = (step - self.warmup) / max(self.steps - self.warmup, 1)
        return decayed(self.decay, max(0.0, done - self.hold) / (1 - self.hold), self.floor)

    def batch(self, step: int, windows: int) -> list[int]:
        """Indices of a step's windows; the same whether the steps before it were taken in this process or not.

        Each pass has an order of its own; what is left of the windows at its end is dropped.
        """
        passes, index = divmod(step, windows // self.batch_size)
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(passes):
            torch.randperm(windows, generator=generator)
        order = torch.randperm(windows, generator=generator)
        return order[index * self.batch_size : (index + 1) * self.batch_size].tolist()
