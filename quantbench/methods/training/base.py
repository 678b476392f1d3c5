"""The contract of the training axis."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from quantbench.formats import QuantizedWeight
from quantbench.methods.component import Component
from quantbench.methods.decay import DECAYS
from quantbench.methods.rounding.tuner import OwnWeight, ParameterGroup
from quantbench.methods.training.distillation import distillation
from quantbench.methods.training.schedule import Schedule


@dataclass
class Training(Component, ABC):
    """Whether and how the whole model is trained with its quantization in the loop."""

    @property
    def trains(self) -> bool:
        """False for post-training quantization."""
        return True

    @property
    def needs_text(self) -> bool:
        """Whether it trains on the calibration windows."""
        return False

    @property
    def needs_latent(self) -> bool:
        """Whether it starts from the weights that were rounded, and not from the codes alone."""
        return False


@dataclass
class FineTuning(Training, ABC):
    """Training on the calibration windows, from what the walk gave, towards the full-precision model.

    The loss is kl * T^2 KL(teacher || student) at temperature T, plus ce * cross-entropy of the next tokens, both a
    mean over tokens. AdamW without weight decay unless told otherwise; the last weights are kept.

    epochs: passes over the windows, in a new order each (``seed``); steps: so many instead (null: as epochs say);
    batch_size: windows a step; lr: of the weights, or of the step sizes where only these move; warmup: the fraction of
    the steps in which rates rise; decay: of rates afterwards, to ``floor`` times their value; grad_clip: largest norm
    of all gradients together, null for none.
    """

    epochs: int = 1
    steps: int | None = None
    batch_size: int = 8
    lr: float = 2e-5
    warmup: float = 0.0
    decay: str = "cosine"
    floor: float = 0.0
    weight_decay: float = 0.0
    grad_clip: float | None = 1.0
    kl: float = 1.0
    ce: float = 0.0
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 0), ("steps", 0), ("batch_size", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"training.{name}={value}: allowed are integers from {least}")
        for name in ("lr", "temperature", "grad_clip"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ValueError(f"training.{name}={value}: allowed are positive numbers")
        for name in ("kl", "ce", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"training.{name}={getattr(self, name)}: allowed are numbers from 0")
        for name in ("warmup", "floor"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"training.{name}={getattr(self, name)}: allowed are values from 0 to 1")
        if self.decay not in DECAYS:
            raise ValueError(f"training.decay={self.decay}: allowed are {', '.join(DECAYS)}")
        if self.kl + self.ce == 0:
            raise ValueError("training.kl=0 and training.ce=0: allowed is a positive number for one of them")

    @property
    def needs_text(self) -> bool:
        return True

    @property
    def needs_latent(self) -> bool:
        return True

    def schedule(self, windows: int) -> Schedule:
        """The steps over so many windows."""
        batch = min(self.batch_size, windows)
        steps = self.epochs * (windows // batch) if self.steps is None else self.steps
        warmup = round(self.warmup * steps)
        return Schedule(steps, batch, warmup=warmup, decay=self.decay, floor=self.floor, seed=self.seed)

    def optimizer(self, groups: list[ParameterGroup]) -> torch.optim.Optimizer:
        """The optimiser of these parameters."""
        return torch.optim.AdamW(groups, lr=self.lr, weight_decay=self.weight_decay)

    def loss(self, student: Tensor, teacher: Tensor | None, ids: Tensor) -> Tensor:
        """student, teacher: logits [windows, tokens, vocabulary], the teacher's None where ``kl`` is 0; ids: tokens."""
        total = student.new_zeros(())
        if teacher is not None:
            total = total + self.kl * distillation(student, teacher, temperature=self.temperature)
        if self.ce:
            total = total + self.ce * cross_entropy(student[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())
        return total

    @abstractmethod
    def tunable(self, start: QuantizedWeight, latent: Tensor | None) -> OwnWeight:
        """A matrix [out, in] at the start.

        start: what the walk gave; latent: what was rounded, None if not asked for.
        """
