"""What a run found out, and the identity under which it is recorded."""

import json
import socket
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

import torch
from torch import nn

from quantbench.config.schema import RunConfig
from quantbench.data.calibration import CalibrationSet, contamination
from quantbench.job import Job
from quantbench.measurement import Measurement
from quantbench.models.branch import VariantResult
from quantbench.session import Reference
from quantbench.stages import Stages
from quantbench.store.failures import Failure
from quantbench.store.identity import git_state, machine, versions
from quantbench.store.record import RunIdentity

FULL_PRECISION_BYTES = 2  # what is not quantized is counted at 16 bits, as models are deployed


@dataclass(frozen=True)
class Outcome:
    """What a run found out. unquantized: parameters of the quantized model that are not quantized."""

    reference: Reference
    calibration: CalibrationSet | None
    result: VariantResult
    measurements: list[Measurement]
    device: torch.device
    unquantized: int


def run_identity(job: Job, outcome: Outcome, stages: Stages) -> RunIdentity:
    """Every column of the record that describes the run as a whole."""
    config, label = job.config, job.label
    weights, calibration, quantizes = outcome.result.weights, outcome.calibration, config.rounding.quantizes
    stored = sum(w.nbytes for w in weights.values())
    flagged = contamination(calibration.documents, outcome.reference.prepared.documents) if calibration else ""
    notes = [*outcome.reference.loaded.notes, *(calibration.notes if calibration else ()), *outcome.result.notes]
    notes += [f"contamination: {flagged}"] if flagged else []
    commit, dirty = git_state(Path(__file__).parent)
    return RunIdentity(
        run_id=job.identifier,
        method=label.method,
        variant=label.variant,
        format=label.choices["format"],
        range=label.choices["range"],
        transform=label.choices["transform"],
        rounding=label.choices["rounding"],
        allocation=label.choices["allocation"],
        activation=label.choices["activation"],
        kv_cache=label.choices["kv_cache"],
        training=label.choices["training"],
        bits=_nominal_bits(config),
        activation_bits=config.activation.nominal_bits,
        kv_bits=config.kv_cache.nominal_bits,
        group_size=config.format.group_size if quantizes else None,
        symmetric=not config.format.stored_zero_point if quantizes else None,
        statistics=config.stats if calibration else "none",
        bits_per_weight=_bits_per_weight(outcome),
        quantized_bytes=stored,
        model_bytes=stored + outcome.unquantized * FULL_PRECISION_BYTES,
        model=outcome.reference.loaded.identity.name,
        model_revision=outcome.reference.loaded.identity.revision,
        protocol=config.evaluation.protocol,
        corpus=outcome.reference.prepared.documents.name,
        evaluation_hash=outcome.reference.prepared.hash,
        calibration=calibration.name if calibration else None,
        num_samples=len(calibration.ids) if calibration else None,
        seqlen=calibration.ids.shape[1] if calibration else None,
        calibration_hash=calibration.hash if calibration else None,
        contaminated=bool(flagged),
        seed=config.seed,
        dtype=_arithmetic(str(outcome.reference.loaded.dtype).removeprefix("torch."), config.evaluation.compute),
        device=device_name(outcome.device),
        config=json.dumps(asdict(config), sort_keys=True),
        versions=json.dumps(versions(), sort_keys=True),
        git_commit=commit,
        git_dirty=dirty,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        seconds=json.dumps(stages.seconds),
        peak_memory=json.dumps(stages.peak_memory),
        notes=json.dumps(notes),
    )


def _nominal_bits(config: RunConfig) -> int | None:
    """Bits of a weight's code; those of the weights that stay, or None where nothing is quantized at all."""
    if config.rounding.quantizes:
        return config.format.bits
    return 8 * FULL_PRECISION_BYTES if config.quantizes else None


def failure(job: Job, error: Exception, stages: Stages) -> Failure:
    """The record of a run that failed."""
    config, label, model = job.config, job.label, job.model
    commit, dirty = git_state(Path(__file__).parent)
    quantizes = config.rounding.quantizes
    return Failure(
        run_id=job.identifier,
        error=type(error).__name__,
        reason=" ".join(str(error).split()) or type(error).__name__,
        stage=stages.current,
        method=label.method,
        variant=label.variant,
        bits=_nominal_bits(config),
        group_size=config.format.group_size if quantizes else None,
        model=model.name,
        model_revision=model.revision,
        device=device_name(job.device),
        host=socket.gethostname(),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        config=asdict(config),
        seconds=stages.seconds,
        versions=versions(),
        git_commit=commit,
        git_dirty=dirty,
    )


def _bits_per_weight(outcome: Outcome) -> float:
    """Stored bits over weights of all linears of the decoder blocks; those left in full precision count 16 bits."""
    weights = outcome.result.weights
    bits = elements = 0
    for block in outcome.reference.structure.blocks:
        for name in block.linears:
            weight = weights.get(f"{block.name}.{name}")
            rows, columns = weight.shape if weight else block.module.get_submodule(name).weight.shape  # type: ignore[misc]
            elements += rows * columns
            bits += 8 * (weight.nbytes if weight else FULL_PRECISION_BYTES * rows * columns)
    return bits / elements


def unquantized_parameters(model: nn.Module) -> int:
    """Parameters that are not quantized (quantized weights are buffers of their layers); tied ones count once."""
    return sum(p.numel() for p in model.parameters())


def device_name(device: torch.device) -> str:
    """The accelerator's or processor's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(machine()["cpu"])


def _arithmetic(dtype: str, compute: str) -> str:
    """The model's dtype, and that of its products where ``evaluation.compute`` asks for another."""
    return dtype if compute in ("model", dtype) else f"{dtype}, products {compute}"
