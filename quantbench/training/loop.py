"""The loop that trains whole models."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quantbench.errors import QuantizationError
from quantbench.methods.training.schedule import Schedule
from quantbench.progress import track
from quantbench.training.checkpoint import Checkpoint


@dataclass
class Loop:
    """Steps of optimisers down a loss.

    loss: of step i, differentiable, a function of the parameters and of i alone, so that a training that goes on from a
    checkpoint does what it would have done; project: puts parameters back into their domain after a step; grad_clip:
    largest norm of all gradients together.
    """

    name: str
    optimizers: Sequence[torch.optim.Optimizer]
    schedule: Schedule
    loss: Callable[[int], Tensor]
    project: Callable[[], None]
    grad_clip: float | None
    checkpoint: Checkpoint | None

    def __post_init__(self) -> None:
        self.parameters: list[Tensor] = [p for group in self._groups() for p in group["params"]]
        self.losses: list[float] = []
        self._rates = [group["lr"] for group in self._groups()]

    def _groups(self) -> list[dict[str, Any]]:
        """Asked for anew each time, since an optimiser that loads a state puts others in their place."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    @torch.enable_grad()
    def run(self) -> list[float]:
        """Take the steps that the checkpoint lacks; the losses of all of them.

        Raises:
            QuantizationError: a loss is not a finite number.
        """
        self._resume()
        steps = range(len(self.losses), self.schedule.steps)
        for step in track(steps, stage=self.name, unit="step"):
            self.losses.append(self._step(step))
            if self.checkpoint is not None and self.checkpoint.due:
                self.checkpoint.save(self._state())
        return self.losses

    def _step(self, step: int) -> float:
        for group, rate in zip(self._groups(), self._rates, strict=True):
            group["lr"] = rate * self.schedule.factor(step)
        loss = self.loss(step)
        value = loss.item()
        if not math.isfinite(value):
            raise QuantizationError(f"{self.name}: the loss of step {step + 1} is not a finite number")
        for parameter, gradient in zip(
            self.parameters, torch.autograd.grad(loss, self.parameters, allow_unused=True), strict=True
        ):
            parameter.grad = gradient  # an expert may get no token
        if self.grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.grad_clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.project()
        return value

    def _state(self) -> dict[str, Any]:
        return {
            "losses": self.losses,
            "parameters": [parameter.detach() for parameter in self.parameters],
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    @torch.no_grad()
    def _resume(self) -> None:
        state = None if self.checkpoint is None else self.checkpoint.load()
        if state is None:
            return
        self.losses = state["losses"]
        for parameter, value in zip(self.parameters, state["parameters"], strict=True):
            parameter.copy_(value)
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)


def fingerprint(*parts: object) -> str:
    """sha256 of tensors, by their bytes, and of whatever else by its ``repr``."""
    digest = hashlib.sha256(torch.__version__.encode())
    for part in parts:
        if isinstance(part, Tensor):
            digest.update(f"{part.dtype} {tuple(part.shape)}".encode())
            digest.update(part.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        else:
            digest.update(repr(part).encode())
    return digest.hexdigest()
