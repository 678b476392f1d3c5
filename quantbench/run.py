"""Runs, top to bottom: load, calibrate, quantize, evaluate, record; one alone, or several that share what they can."""

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from quantbench.checks import check_model, check_texts, context_length
from quantbench.config.schema import RunConfig
from quantbench.curves import curve_measurements
from quantbench.data.calibration import CalibrationSet, build
from quantbench.errors import InputError, forget_frames
from quantbench.evaluation.evaluate import baseline, measure, prepare
from quantbench.evaluation.latency import Speed, speed_measurements, speeds
from quantbench.job import Job, plan_job
from quantbench.label import Label
from quantbench.layers import layer_measurements
from quantbench.measurement import Measurement
from quantbench.methods.transform import SpinQuant
from quantbench.models.attention import cache_measurements
from quantbench.models.basis import Basis, Turn
from quantbench.models.branch import VariantResult
from quantbench.models.load import WorldModel, load
from quantbench.models.memory import plan_memory
from quantbench.models.packed import check_packed_weights, weight_bytes
from quantbench.models.rewrite import check_rewrite, rewrite_
from quantbench.models.solve import apply_result
from quantbench.models.spin import learn_turn
from quantbench.models.statistics_cache import StatisticsCache
from quantbench.models.structure import Structure, find_structure
from quantbench.models.walk import quantize_each
from quantbench.outcome import FULL_PRECISION_BYTES, Outcome, run_identity, unquantized_parameters
from quantbench.paths import usable_cache_dir
from quantbench.recording import Recorded, keep_failure, out_of_memory, record, show_stored
from quantbench.saving import save
from quantbench.session import Reference, Session
from quantbench.stages import Stages
from quantbench.store.claims import Owner
from quantbench.training.scratch import ensure_trained
from quantbench.training.train import train

_LOG = logging.getLogger(__name__)

Outcomes = Iterator[tuple[Job, Recorded | Exception]]


def run(config: RunConfig, label: Label, session: Session) -> Recorded:
    """Do one run and show its table; a run that is already stored is shown instead, unless ``force``.

    session: shared by the runs of a sweep, so that those on one model and text load and score full precision once.

    Raises:
        InputError: something the user gave is wrong.
        QuantizationError: the run cannot go on; its failure is kept.
    """
    return do(plan_job(config, label, session), session)


def do(job: Job, session: Session) -> Recorded:
    """Do a job by itself, or show what is stored; another process that computes it is waited for.

    Raises:
        InputError, QuantizationError: see :func:`run`.
    """
    if job.is_done:
        return show_stored(job)
    with job.store.claims.held(job.identifier, waiting=partial(_say_who_computes, job)):
        if job.is_done:  # by the process that was waited for
            return show_stored(job)
        outcome = next(run_together([job], session))[1]
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _say_who_computes(job: Job, owner: Owner) -> None:
    print(f"Run {job.identifier} is being computed by {owner}; waiting.")


def run_together(jobs: Sequence[Job], session: Session) -> Outcomes:
    """Do runs of one reference, one calibration set (or none) and one basis; yields each with its record or its error.

    They are quantized in one walk and then evaluated one after the other, and recorded as if each had been alone. Of
    the recorded seconds, those of loading and of scoring full precision are the first run's; ``quantize`` is what a run
    would have taken alone, and ``quantize_shared`` the part of it that it had in common with others.
    """
    waiting = {job.key: job for job in jobs}
    once = Stages(jobs[0].device)
    try:
        for job, outcome in _together(list(jobs), session, once):
            del waiting[job.key]
            yield job, outcome if isinstance(outcome, Recorded) else keep_failure(job, outcome, once)
    except Exception as error:
        for job in waiting.values():
            yield job, keep_failure(job, error, once)


@dataclass
class _Group:
    """What runs on one reference and in one walk have in common.

    once: stages that count for the first run that is recorded; calibrating, common: those that count for each that
    calibrates, and for each that is quantized; walk: those of the last walk; walking: how many were quantized in it;
    notes: what was done to the model for all; structure: of the model as it now is.
    """

    reference: Reference
    device: torch.device
    once: Stages
    calibration: CalibrationSet | None = None
    walking: int = 0
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.structure = self.reference.structure
        self.calibrating, self.common, self.walk = (Stages(self.device, of=self.once) for _ in range(3))

    @property
    def ids(self) -> Tensor | None:
        """Calibration tokens [samples, seqlen]."""
        return None if self.calibration is None else self.calibration.ids

    @property
    def model(self) -> Any:
        """In full precision, or with one variant applied."""
        return self.reference.loaded.model


def _together(jobs: list[Job], session: Session, once: Stages) -> Outcomes:
    """once: gets the stages that count for the first run, and is told the stage that each error comes from."""
    device = jobs[0].device
    jobs = yield from _passing(jobs, lambda job: check_texts(job.config))
    if not jobs:
        return
    try:
        reference = session.reference(jobs[0].reference_key, lambda: _reference(jobs, once))
    except _NoneLeft as refused:
        yield from refused.errors
        return
    group = _Group(reference, device, once)
    jobs = yield from _passing(jobs, lambda job: _check(job, group.model, group.reference.structure))
    for job in [job for job in jobs if not job.quantizes]:
        yield job, _recorded(job, group, None)
    jobs = yield from _calibrated([job for job in jobs if job.quantizes], group)
    if jobs:
        _rotate(jobs[0], group, session)
        for part in _parts(jobs, group):
            yield from _walked(part, group)


def _walked(jobs: list[Job], group: _Group) -> Outcomes:
    """Quantize in one walk, then evaluate one after the other; those that cannot share it are then done alone."""
    results = _quantize(jobs, group)
    alone = [job for job, result in zip(jobs, results, strict=True) if result is None]
    for job, result in zip(jobs, results, strict=True):
        if isinstance(result, Exception):
            yield job, result
    for job in jobs:
        result = results.pop(0)  # which need not be kept once it is recorded
        if isinstance(result, VariantResult):
            yield job, _recorded(job, group, result)
    for job in alone:
        yield from _walked([job], group)


def _passing(jobs: list[Job], check: Callable[[Job], None]) -> Generator[tuple[Job, Exception], None, list[Job]]:
    """The jobs that pass a check; the others are yielded with what is wrong."""
    passing = []
    for job in jobs:
        try:
            check(job)
        except InputError as error:
            yield job, error
        else:
            passing.append(job)
    return passing


class _NoneLeft(Exception):
    """The model can be loaded, but every job asks for something that it cannot take."""

    def __init__(self, errors: list[tuple[Job, Exception]]) -> None:
        super().__init__()
        self.errors = errors


def _reference(jobs: list[Job], stages: Stages) -> Reference:
    """Load the model, prepare what it is scored on, and score it in full precision."""
    config, identity, device, cache = jobs[0].config, jobs[0].model, jobs[0].device, usable_cache_dir()
    if isinstance(config.model, WorldModel):
        with stages.stage("pretrain"):
            ensure_trained(config.model, device=device)
    with stages.stage("load"):
        loaded = load(config.model, config.dtype, identity=identity, device=device)
        model: Any = loaded.model
        structure = find_structure(model)
        refused = list(_passing(jobs, lambda job: _check(job, model, structure)))
        if len(refused) == len(jobs):  # so full precision need not be scored
            raise _NoneLeft(refused)
    with stages.stage("prepare"):
        prepared = prepare(config.evaluation, loaded.tokenizer, max_context=context_length(model), cache_dir=cache)
    with stages.stage("baseline"):
        base = baseline(prepared, model.to(device), identity=asdict(identity), cache_dir=cache)
        model.to("cpu")
    return Reference(loaded, structure, prepared, base)


def _check(job: Job, model: nn.Module, structure: Structure) -> None:
    check_model(job.config, model, structure)
    if job.rewrite is not None:
        check_rewrite(model, structure, job.rewrite)


def _calibrated(jobs: list[Job], group: _Group) -> Generator[tuple[Job, Exception], None, list[Job]]:
    """Build the calibration set, if any job needs one; those that cannot have theirs are yielded with the reason."""
    asking = [job for job in jobs if job.calibrates]
    if not asking:
        return jobs
    config = asking[0].config
    try:
        with group.calibrating.stage("calibration"):
            tokenizer, context = group.reference.loaded.tokenizer, context_length(group.model)
            group.calibration = build(config.calibration, tokenizer, config.seed, max_context=context)
    except Exception as error:
        yield from ((job, error) for job in asking)
        return [job for job in jobs if job not in asking]
    return jobs


def _rotate(job: Job, group: _Group, session: Session) -> None:
    """Rewrite the model where the transform is one of the whole model, which the group's runs then have in common."""
    if job.rewrite is not None:
        session.forget()
        with group.common.stage("rotate"):
            learn = partial(_turn, job, group, session)
            group.notes = rewrite_(group.model.to(group.device), group.structure, job.rewrite, learn)
            group.structure = find_structure(group.model.to("cpu"))


def _turn(job: Job, group: _Group, session: Session, structure: Structure, basis: Basis) -> Turn:
    """What a learned rotation comes to for the group's runs."""
    transform, ids = job.rewrite, group.ids
    assert isinstance(transform, SpinQuant)
    assert ids is not None
    key = job.reference_key, job.calibration_key, job.basis_key
    learn = partial(learn_turn, group.model, transform, job.config.variant(), ids, structure, basis)
    return session.turn(key, learn)


def _parts(jobs: list[Job], group: _Group) -> list[list[Job]]:
    """Those whose results fit into memory together."""
    variants, dtype = [job.config.variant() for job in jobs], group.reference.loaded.dtype
    plan = plan_memory(group.structure, variants, group.ids, dtype=dtype, device=group.device)
    if len(jobs) > 1:
        _LOG.info("%s", plan)
    return [[jobs[index] for index in part] for part in plan.parts]


def _quantize(jobs: list[Job], group: _Group) -> list[VariantResult | Exception | None]:
    """One walk for all; None for those that shall be tried alone: it failed for all, or left one too little memory."""
    variants, group.walking = [job.config.variant() for job in jobs], len(jobs)
    group.walk = Stages(group.device, of=group.once)
    try:
        with group.walk.stage("quantize"):
            model, structure, cache = group.model, group.structure, StatisticsCache.of_user()
            outcomes = quantize_each(model, structure, variants, group.ids, device=group.device, cache=cache)
    except Exception as error:
        forget_frames(error)
        if len(jobs) == 1:
            return [error]
        _LOG.warning("%d runs cannot share a walk, each gets its own: %s", len(jobs), error)
        return [None for _ in jobs]
    for outcome in outcomes:
        if isinstance(outcome, VariantResult):
            outcome.notes[:0] = group.notes
    return [None if len(jobs) > 1 and out_of_memory(outcome) else outcome for outcome in outcomes]


def _recorded(job: Job, group: _Group, result: VariantResult | None) -> Recorded | Exception:
    """Evaluate one variant (None: full precision) on the group's model and store its record; or why that failed."""
    stages = _stages_of(job, group, result)
    try:
        if result is not None:
            result = _trained(job, group, result, stages)
        outcome = _evaluate(job, group, result, stages)
        return record(job, outcome, stages)
    except Exception as error:
        return error


def _trained(job: Job, group: _Group, result: VariantResult, stages: Stages) -> VariantResult:
    """The variant after what the training axis does to it; a killed training goes on from its checkpoint."""
    config, device = job.config, group.device
    if not config.training.trains:
        return result
    place = usable_cache_dir() / "training" / f"{job.identifier}.pt"
    with stages.stage("train"):
        variant = config.variant()
        return train(group.model, config.model, variant, result, group.ids, device=device, checkpoint=place)


def _stages_of(job: Job, group: _Group, result: VariantResult | None) -> Stages:
    """What is measured of a run before it is evaluated."""
    stages, group.once = group.once, Stages(group.device, of=group.once)
    if job.calibrates:
        stages = stages.followed_by(group.calibrating)
    if result is None:
        return stages
    stages = stages.followed_by(group.common).followed_by(group.walk)
    if group.walking > 1:
        stages.seconds["quantize"] = result.seconds + result.shared_seconds
    if group.walking > 1 and result.shared_seconds:
        stages.seconds["quantize_shared"] = result.shared_seconds
    return stages


def _speeds(job: Job, group: _Group, stages: Stages) -> list[Speed]:
    """How fast the group's model is as it is now, where that is asked for."""
    if not job.config.evaluation.latency_batches:
        return []
    with stages.stage("latency"):
        return speeds(group.model.to(group.device), job.config.evaluation)


def _evaluate(job: Job, group: _Group, result: VariantResult | None, stages: Stages) -> Outcome:
    reference, model = group.reference, group.model
    if result is None:
        measurements = measure(reference.prepared, reference.base)
        measurements += speed_measurements(_speeds(job, group, stages), None)
        model.to("cpu")
        outcome = Outcome(reference, None, VariantResult(), measurements, group.device, unquantized_parameters(model))
        save(job.config, reference.loaded, measurements, partial(run_identity, job, outcome, stages), stages)
        return outcome
    calibration = group.calibration if job.calibrates else None
    full_bytes, execution = weight_bytes(model), job.config.evaluation.execution
    full_speeds = _speeds(job, group, stages)
    undo = apply_result(model, result, execution=execution)
    try:
        with stages.stage("evaluate"):
            measurements = measure(reference.prepared, reference.base, model.to(group.device))
        measurements += layer_measurements(group.structure.linears, result.layers)
        measurements += curve_measurements(result.losses)
        tokens, width = reference.prepared.longest_window, group.structure.head_dim
        measurements += cache_measurements(result.caches, tokens=tokens, head_dim=width, full=8 * FULL_PRECISION_BYTES)
        if execution == "packed":
            size = weight_bytes(model)
            measurements.append(Measurement("weight_bytes", "model", size, "bytes", 1, baseline=full_bytes))
            check_packed_weights(model)
        measurements += speed_measurements(_speeds(job, group, stages), full_speeds)
        outcome = Outcome(reference, calibration, result, measurements, group.device, unquantized_parameters(model))
        save(job.config, reference.loaded, measurements, partial(run_identity, job, outcome, stages), stages)
        return outcome
    finally:
        undo()
        model.to("cpu")
