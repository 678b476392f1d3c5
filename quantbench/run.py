"""One run, top to bottom: load, calibrate, quantize, evaluate, record."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from quantbench.config.schema import RunConfig
from quantbench.data.calibration import build
from quantbench.data.corpora import load_documents
from quantbench.determinants import determinants
from quantbench.errors import InputError, QuantizationError
from quantbench.evaluation.evaluate import baseline, measure, prepare
from quantbench.evaluation.tasks import check_tasks
from quantbench.formats import Format
from quantbench.label import Label
from quantbench.measurement import Measurement
from quantbench.methods.allocation import Uniform
from quantbench.methods.transform import Rotation, Transform
from quantbench.models.identity import ModelIdentity
from quantbench.models.load import identify, load
from quantbench.models.packed import check_packable, weight_bytes
from quantbench.models.rotate import check_rotation, rotate_
from quantbench.models.solve import apply_result
from quantbench.models.structure import Structure, find_structure
from quantbench.models.walk import VariantResult, quantize
from quantbench.outcome import Outcome, failure, run_identity, unquantized_parameters
from quantbench.paths import usable_cache_dir
from quantbench.report.terminal import show_run
from quantbench.saving import check_save, check_saved_model, save
from quantbench.session import Reference, Session
from quantbench.stages import Stages
from quantbench.store.identity import git_state, run_id
from quantbench.store.parquet import Store
from quantbench.store.record import RunIdentity
from quantbench.store.wandb_log import log_run

_HOST_OUT_OF_MEMORY = "can't allocate memory"


@dataclass(frozen=True)
class Recorded:
    """A run as it is stored."""

    identity: RunIdentity
    measurements: list[Measurement]


def run(config: RunConfig, label: Label, session: Session) -> Recorded:
    """Do one run and show its table; a run that is already stored is shown instead, unless ``force``.

    session: shared by the runs of a sweep, so that those on one model and text load and score full precision once.

    Raises:
        InputError: something the user gave is wrong.
        QuantizationError: the run cannot go on; its failure is kept.
    """
    device = pick_device(config.device)
    store = Store(config.results_dir)
    store.check_writable()
    cache = usable_cache_dir()
    check_tasks(config.evaluation, cache_dir=cache)
    check_save(config)
    model = identify(config.model)
    identifier = run_id(determinants(config, label, model, device.type))
    if store.exists(identifier) and not config.force and config.save is None:
        return _show_stored(store, identifier)
    stages = Stages(device)
    with store.attempt(
        identifier,
        describe=lambda error: failure(config, label, identifier, model, error, stages),
        waiting=lambda owner: print(f"Run {identifier} is being computed by {owner}; waiting."),
    ):
        if store.exists(identifier) and not config.force and config.save is None:  # by the job that was waited for
            return _show_stored(store, identifier)
        return _compute_and_store(config, label, identifier, model, store, stages, cache, session)


def _compute_and_store(
    config: RunConfig,
    label: Label,
    identifier: str,
    model: ModelIdentity,
    store: Store,
    stages: Stages,
    cache: Path,
    session: Session,
) -> Recorded:
    device = stages.device

    def keep(outcome: Outcome) -> None:
        record = partial(run_identity, config, label, identifier, outcome, stages)
        save(config, outcome.reference.loaded, outcome.measurements, record, stages)

    try:
        outcome = _compute(config, model, device, stages, cache, session, keep)
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or _HOST_OUT_OF_MEMORY in str(error):
            raise QuantizationError(f"out of memory on {device}: {str(error).splitlines()[0]}") from error
        raise
    identity = run_identity(config, label, identifier, outcome, stages)
    paths = store.write(identity, outcome.measurements)
    show_run(identity, outcome.measurements, paths)
    line = log_run(identity, outcome.measurements, paths=paths, cfg=config.logger, results_dir=config.results_dir)
    if line:
        print(line)
    return Recorded(identity, outcome.measurements)


def _show_stored(store: Store, identifier: str) -> Recorded:
    identity, measurements = store.read(identifier)
    print(f"Run {identifier} is already stored; force=true recomputes it.")
    commit, dirty = git_state(Path(__file__).parent)
    if (identity.git_commit, identity.git_dirty) != (commit, dirty) or dirty:
        print(f"It was stored by {_code(identity.git_commit, identity.git_dirty)}; this is {_code(commit, dirty)}.")
    show_run(identity, measurements, store.paths(identifier))
    return Recorded(identity, measurements)


def _code(commit: str | None, dirty: bool | None) -> str:
    changed = " with changes" if dirty else ""
    return f"commit {commit[:12]}{changed}" if commit else "an installed version"


def _compute(
    config: RunConfig,
    identity: ModelIdentity,
    device: torch.device,
    stages: Stages,
    cache: Path,
    session: Session,
    keep: Callable[[Outcome], None],
) -> Outcome:
    """keep: called while the model is still the quantized one."""
    _check_texts(config)
    key = (json.dumps([asdict(config.evaluation), asdict(identity), config.dtype], sort_keys=True), device)
    reference = session.reference(key, lambda: _reference(config, identity, device, stages, cache))
    model: Any = reference.loaded.model
    _check_model(config, model, reference.structure)
    if not config.rounding.quantizes:
        measurements = measure(reference.prepared, reference.base)
        outcome = Outcome(reference, None, VariantResult(), measurements, device, unquantized_parameters(model))
        keep(outcome)
        return outcome
    with stages.stage("calibration"):
        calibration = None
        if config.variant().needs_calibration:
            tokenizer = reference.loaded.tokenizer
            calibration = build(config.calibration, tokenizer, config.seed, max_context=_context(model))
    with stages.stage("quantize"):
        ids = None if calibration is None else calibration.ids
        structure, notes = _rotated(reference, config.transform, device, session)
        result = quantize(model, structure, [config.variant()], ids, device=device)[0]
        result.notes[:0] = notes
        full_bytes = weight_bytes(model)
        undo = apply_result(model, result, execution=config.evaluation.execution)
    try:
        with stages.stage("evaluate"):
            measurements = measure(reference.prepared, reference.base, model.to(device))
        if config.evaluation.execution == "packed":
            measurements.append(
                Measurement("weight_bytes", "model", weight_bytes(model), "bytes", 1, baseline=full_bytes)
            )
        outcome = Outcome(reference, calibration, result, measurements, device, unquantized_parameters(model))
        keep(outcome)
        return outcome
    finally:
        undo()
        model.to("cpu")


def _reference(
    config: RunConfig, identity: ModelIdentity, device: torch.device, stages: Stages, cache: Path
) -> Reference:
    """Load the model, prepare what it is scored on, and score it in full precision."""
    with stages.stage("load"):
        loaded = load(config.model, config.dtype, identity=identity, device=device)
        model: Any = loaded.model
        structure = find_structure(model)
        _check_model(config, model, structure)  # before full precision is scored
        if isinstance(config.transform, Rotation):
            check_rotation(model, structure, config.transform)
    with stages.stage("prepare"):
        prepared = prepare(config.evaluation, loaded.tokenizer, max_context=_context(model), cache_dir=cache)
    with stages.stage("baseline"):
        base = baseline(prepared, model.to(device), identity=asdict(identity), cache_dir=cache)
        model.to("cpu")
    return Reference(loaded, structure, prepared, base)


def _rotated(
    reference: Reference, transform: Transform, device: torch.device, session: Session
) -> tuple[Structure, list[str]]:
    """Rewrite the model where the transform is one of the whole model; its structure now, and what was done."""
    if not isinstance(transform, Rotation):
        return reference.structure, []
    session.forget()
    model = reference.loaded.model
    notes = rotate_(model.to(device), reference.structure, transform)
    return find_structure(model.to("cpu")), notes


def _check_texts(config: RunConfig) -> None:
    """Find out about an unreadable or empty text before the model is loaded; the embedded world cannot fail."""
    texts = [(config.evaluation.corpus, config.evaluation.split)]
    if config.variant().needs_calibration:
        texts.append((config.calibration.corpus, config.calibration.split))
    for corpus, split in texts:
        if corpus != "world":
            load_documents(corpus, split)


def _check_model(config: RunConfig, model: nn.Module, structure: Structure) -> None:
    """Find out, before anything is computed, what the run would stumble over later."""
    check_saved_model(config, model, structure)
    if config.rounding.quantizes:
        _check_allocation(config, structure)


def _check_allocation(config: RunConfig, structure: Structure) -> None:
    """Refuse a skip pattern that names no linear (a typo would quantize it silently), or that leaves none."""
    names = [f"{block.name}.{linear}" for block in structure.blocks for linear in block.linears]
    for pattern in config.allocation.skip:
        if all(Uniform(skip=[pattern]).quantizes(name) for name in names):
            kinds = sorted({name.rsplit(".", 1)[-1] for name in names})
            raise InputError(f"allocation.skip={pattern}: matches no linear; their names end in {', '.join(kinds)}")
    if not any(config.allocation.quantizes(name) for name in names):
        raise InputError("allocation.skip matches every linear of the decoder blocks: nothing is left to quantize")
    for block in structure.blocks:
        for linear in block.linears:
            name = f"{block.name}.{linear}"
            if config.allocation.quantizes(name):
                format = config.allocation.format_of(name, config.format)
                _check_shape(name, format, block.module.get_submodule(linear), config.evaluation.execution)


def _check_shape(name: str, format: Format, linear: Any, execution: str) -> None:
    """Refuse a matrix that the format has no layout for."""
    try:
        format = format.for_shape(*linear.weight.shape)
        if execution == "packed":
            check_packable(format, linear.in_features)
    except ValueError as error:
        raise InputError(f"{name}: {error}") from error


def pick_device(name: str) -> torch.device:
    """``auto`` is CUDA when there is one, otherwise the CPU.

    Raises:
        InputError: a device that torch does not know or that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("no accelerator of this kind is supported")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device={name} cannot be used here; allowed are auto, cpu, cuda, cuda:N") from error
    return device


def _context(model: nn.Module) -> int:
    """The longest sequence that the model takes."""
    settings: Any = model.config
    return int(getattr(settings.get_text_config(), "max_position_embeddings", None) or 2**31)
