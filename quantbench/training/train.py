"""What the training axis makes of a quantized model."""

from pathlib import Path

import torch
from torch import Tensor, nn

from quantbench.methods.training import FineTuning, Scratch
from quantbench.methods.variant import Variant
from quantbench.models.branch import VariantResult
from quantbench.models.load import Model, WorldModel
from quantbench.training.fine_tune import fine_tune
from quantbench.training.scratch import from_scratch


def train(
    model: nn.Module,
    source: Model,
    variant: Variant,
    result: VariantResult,
    ids: Tensor | None,
    *,
    device: torch.device,
    checkpoint: Path | None,
) -> VariantResult:
    """A variant of ``model`` after training; ``model`` itself, in full precision, is left as it is.

    source: where the model comes from; ids: calibration tokens [windows, seqlen]; checkpoint: see :func:`fine_tune`.

    Raises:
        QuantizationError: a loss is not a finite number, or the checkpoint cannot be written.
    """
    if isinstance(variant.training, Scratch):
        assert isinstance(source, WorldModel), "checked when the run was planned"
        return from_scratch(source, variant, result, device=device, checkpoint=checkpoint)
    assert isinstance(variant.training, FineTuning)
    assert ids is not None, "fine-tuning asks for calibration tokens"
    return fine_tune(model, variant.training, result, ids, device=device, checkpoint=checkpoint)
