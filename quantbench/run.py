"""One run, top to bottom: load, calibrate, quantize, evaluate, record."""

import json
import logging
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import nn

from quantbench.config.schema import RunConfig
from quantbench.data.calibration import CalibrationSet, build, contamination
from quantbench.determinants import determinants, needs_calibration
from quantbench.errors import InputError, QuantizationError
from quantbench.evaluation.evaluate import Prepared, baseline, measure, prepare
from quantbench.evaluation.tasks import check_tasks
from quantbench.label import Label
from quantbench.measurement import Measurement
from quantbench.models.load import LoadedModel, identify, load
from quantbench.models.solve import apply_result
from quantbench.models.structure import find_structure
from quantbench.models.walk import Variant, VariantResult, quantize
from quantbench.paths import cache_dir
from quantbench.report.terminal import show_run
from quantbench.stages import Stages
from quantbench.store.identity import git_state, machine, run_id, versions
from quantbench.store.parquet import Store
from quantbench.store.record import RunIdentity
from quantbench.store.wandb_log import log_run

_LOG = logging.getLogger(__name__)
_FULL_PRECISION_BYTES = 2  # what is not quantized is counted at 16 bits, as models are deployed


def run(config: RunConfig, label: Label) -> None:
    """Do one run and show its table; a run that is already stored is shown instead, unless ``force``.

    Raises:
        InputError: something the user gave is wrong.
        QuantizationError: the run cannot go on; nothing of it is stored.
    """
    store = Store(config.results_dir)
    store.check_writable()
    check_tasks(config.evaluation, cache_dir=cache_dir())
    model = identify(config.model)
    identifier = run_id(determinants(config, model))
    if store.exists(identifier) and not config.force:
        identity, measurements = store.read(identifier)
        print(f"Run {identifier} is already stored; force=true recomputes it.")
        show_run(identity, measurements, store.paths(identifier))
        return
    device = pick_device(config.device)
    stages = Stages(device)
    try:
        outcome = _compute(config, device, stages)
    except torch.OutOfMemoryError as error:
        raise QuantizationError(f"out of memory on {device}: {str(error).splitlines()[0]}") from error
    identity = _identity(config, label, identifier, outcome, stages)
    paths = store.write(identity, outcome.measurements)
    show_run(identity, outcome.measurements, paths)
    line = log_run(identity, outcome.measurements, paths=paths, cfg=config.logger, results_dir=config.results_dir)
    if line:
        print(line)


@dataclass(frozen=True)
class Outcome:
    """What a run found out."""

    loaded: LoadedModel
    prepared: Prepared
    calibration: CalibrationSet | None
    result: VariantResult
    measurements: list[Measurement]
    device: torch.device


def _compute(config: RunConfig, device: torch.device, stages: Stages) -> Outcome:
    with stages.stage("load"):
        loaded = load(config.model, config.dtype)
        model: Any = loaded.model
        context = _context(model)
    with stages.stage("prepare"):
        prepared = prepare(config.evaluation, loaded.tokenizer, max_context=context, cache_dir=cache_dir())
        calibration = None
        if needs_calibration(config):
            calibration = build(config.calibration, loaded.tokenizer, config.seed, max_context=context)
    with stages.stage("baseline"):
        identity = asdict(loaded.identity)
        base = baseline(prepared, model.to(device), identity=identity, cache_dir=cache_dir())
        model.to("cpu")
    result = VariantResult()
    if not config.rounding.quantizes:
        return Outcome(loaded, prepared, None, result, measure(prepared, base), device)
    with stages.stage("quantize"):
        variant = _variant(config)
        structure = find_structure(model)
        ids = None if calibration is None else calibration.ids
        result = quantize(model, structure, [variant], ids, device=device)[0]
        if not result.weights:
            raise InputError("nothing to quantize: allocation.skip matches every linear of the decoder blocks")
        apply_result(model, result)
    with stages.stage("evaluate"):
        measurements = measure(prepared, base, model.to(device))
    return Outcome(loaded, prepared, calibration, result, measurements, device)


def pick_device(name: str) -> torch.device:
    """``auto`` is CUDA when there is one, otherwise the CPU.

    Raises:
        InputError: a device that torch does not know or that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device={name} cannot be used here; allowed are auto, cpu, cuda, cuda:N") from error
    return device


def _variant(config: RunConfig) -> Variant:
    return Variant(
        format=config.format,
        range=config.range,
        transform=config.transform,
        rounding=config.rounding,
        allocation=config.allocation,
        statistics=config.stats,
    )


def _context(model: nn.Module) -> int:
    """The longest sequence that the model takes."""
    settings: Any = model.config
    return int(getattr(settings.get_text_config(), "max_position_embeddings", None) or 2**31)


def _identity(config: RunConfig, label: Label, identifier: str, outcome: Outcome, stages: Stages) -> RunIdentity:
    weights, calibration, quantizes = outcome.result.weights, outcome.calibration, config.rounding.quantizes
    stored = sum(w.nbytes for w in weights.values())
    elements = sum(w.codes.numel() for w in weights.values())
    flagged = contamination(calibration.documents, outcome.prepared.documents) if calibration else ""
    notes = [*outcome.loaded.notes, *(calibration.notes if calibration else ()), *outcome.result.notes]
    notes += [f"contamination: {flagged}"] if flagged else []
    commit, dirty = git_state(Path(__file__).parent)
    return RunIdentity(
        run_id=identifier,
        method=label.method,
        variant=label.variant,
        format=label.choices["format"],
        range=label.choices["range"],
        transform=label.choices["transform"],
        rounding=label.choices["rounding"],
        allocation=label.choices["allocation"],
        activation=label.choices["activation"],
        bits=config.format.bits if quantizes else None,
        group_size=config.format.group_size if quantizes else None,
        symmetric=config.symmetric if quantizes else None,
        statistics=config.stats if calibration else "none",
        bits_per_weight=8 * stored / elements if weights else 8.0 * _FULL_PRECISION_BYTES,
        quantized_bytes=stored,
        model_bytes=stored + _parameters(outcome.loaded.model) * _FULL_PRECISION_BYTES,
        model=outcome.loaded.identity.name,
        model_revision=outcome.loaded.identity.revision,
        protocol=config.evaluation.protocol,
        corpus=outcome.prepared.documents.name,
        evaluation_hash=outcome.prepared.hash,
        calibration=calibration.name if calibration else None,
        num_samples=len(calibration.ids) if calibration else None,
        seqlen=calibration.ids.shape[1] if calibration else None,
        calibration_hash=calibration.hash if calibration else None,
        contaminated=bool(flagged),
        seed=config.seed,
        dtype=str(outcome.loaded.dtype).removeprefix("torch."),
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


def _parameters(model: nn.Module) -> int:
    """Parameters that are not quantized (quantized weights are buffers of their layers); tied ones count once."""
    return sum(p.numel() for p in model.parameters())


def device_name(device: torch.device) -> str:
    """The accelerator's or processor's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(machine()["cpu"])
