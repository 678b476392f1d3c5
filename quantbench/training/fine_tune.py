"""Fine-tuning a quantized model: what the walk gave goes in, the same with other codes and scales comes out."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from quantbench.methods.rounding.tuner import OwnWeight
from quantbench.methods.training import FineTuning
from quantbench.models.branch import VariantResult
from quantbench.models.layer_error import layer_error
from quantbench.models.solve import apply_result
from quantbench.training.checkpoint import Checkpoint
from quantbench.training.loop import Loop, fingerprint


class Student:
    """A copy of the model with a variant in it, as a function of the tunables of its quantized linears.

    All else stays as the variant has it: quantized inputs, keys and values, rotations.
    """

    def __init__(
        self, model: nn.Module, result: VariantResult, weights: Mapping[str, OwnWeight], device: torch.device
    ) -> None:
        self.module, self.weights = copy.deepcopy(model), weights
        apply_result(self.module, result)
        self.module.to(device).requires_grad_(False)
        self.dtype = next(self.module.parameters()).dtype

    def logits(self, ids: Tensor) -> Tensor:
        """[windows, tokens, vocabulary] for token ids [windows, tokens], differentiable."""
        values = {f"{name}.weight": weight.value().to(self.dtype) for name, weight in self.weights.items()}
        output = torch.func.functional_call(self.module, values, kwargs={"input_ids": ids, "use_cache": False})
        return output.logits


def fine_tune(
    model: nn.Module,
    training: FineTuning,
    result: VariantResult,
    ids: Tensor,
    *,
    device: torch.device,
    checkpoint: Path | None,
) -> VariantResult:
    """Train a variant of ``model`` (full precision, the teacher) on tokens ``ids`` [windows, seqlen].

    checkpoint: the file that a killed training goes on from, removed when it is done; None for none.

    Raises:
        QuantizationError: the loss is not a finite number, or the checkpoint cannot be written.
    """
    weights = {name: training.tunable(start.to(device), _latent(result, name, device))
               for name, start in result.weights.items()}  # fmt: skip
    student, ids = Student(model, result, weights, device), ids.to(device)
    groups = [group for weight in weights.values() for group in weight.groups()]
    schedule = training.schedule(len(ids))
    place = None
    if checkpoint is not None:
        start = [parameter for group in groups for parameter in group["params"]]
        place = Checkpoint(checkpoint, fingerprint(training, ids, *start, *model.state_dict().values()))
    teacher = model.to(device) if training.kl else None

    def loss(step: int) -> Tensor:
        batch = ids[schedule.batch(step, len(ids))]
        with torch.no_grad():
            target = None if teacher is None else teacher(input_ids=batch, use_cache=False).logits
        return training.loss(student.logits(batch), target, batch)

    def project() -> None:
        for weight in weights.values():
            weight.project_()

    try:
        loop = Loop("train", [training.optimizer(groups)], schedule, loss, project, training.grad_clip, place)
        losses = loop.run()
    finally:
        model.to("cpu")
    if place is not None:
        place.remove()
    trained = {name: weight.result().to("cpu") for name, weight in weights.items()}
    layers = {name: layer_error(result.latent[name], weight, None)
              for name, weight in trained.items() if name in result.latent}  # fmt: skip
    return replace(result, weights=trained, layers=layers, latent={}, losses=losses)


def _latent(result: VariantResult, name: str, device: torch.device) -> Tensor | None:
    return result.latent[name].to(device) if name in result.latent else None
