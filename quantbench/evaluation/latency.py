"""How fast a model reads a prompt and writes tokens after it, what that takes, and which layers take it."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from quantbench.evaluation.breakdown import seconds_by_kind, timed_layers
from quantbench.evaluation.config import Evaluation
from quantbench.evaluation.energy import energy_counter
from quantbench.evaluation.scoring import model_device, vocabulary_of
from quantbench.measurement import Measurement
from quantbench.timings import DECODE_TIME, PREFILL_TIME, time_measurement

_REPEATS, _WARMUPS = 5, 1


@dataclass(frozen=True)
class Speed:
    """Medians at one batch size.

    prefill: prompt tokens a second; first_token: seconds until it is known; decode: tokens a second after it, of all
    sequences together; peak_bytes: of device memory, None on a processor; prefill_energy, decode_energy: joules for a
    token, None where nothing tells. prefill_layers, decode_layers: seconds of one pass by kind of layer, from runs of
    their own.
    """

    batch: int
    prefill: float
    first_token: float
    decode: float
    peak_bytes: int | None
    prefill_energy: float | None = None
    decode_energy: float | None = None
    prefill_layers: dict[str, float] = field(default_factory=dict)
    decode_layers: dict[str, float] = field(default_factory=dict)


@torch.inference_mode()
def speeds(model: Any, config: Evaluation) -> list[Speed]:
    """Speed at each batch size of ``config.latency_batches``, on random tokens (what they are does not matter)."""
    return [_speed(model, batch, config) for batch in config.latency_batches]


def _speed(model: Any, batch: int, config: Evaluation) -> Speed:
    generator = torch.Generator().manual_seed(batch)
    ids = torch.randint(vocabulary_of(model), (batch, config.latency_prompt), generator=generator)
    ids = ids.to(model_device(model))
    if ids.is_cuda:
        torch.cuda.reset_peak_memory_stats(ids.device)
    for _ in range(_WARMUPS):
        _generate(model, ids, config.latency_tokens)
    runs = [_generate(model, ids, config.latency_tokens) for _ in range(_REPEATS)]
    peak = torch.cuda.max_memory_allocated(ids.device) if ids.is_cuda else None
    first, rest = (statistics.median(seconds) for seconds in zip(*(run[:2] for run in runs), strict=True))
    tokens = batch * config.latency_tokens
    # the counter moves a few times a second: sums over all runs, not medians
    reading, writing = (None if runs[0][k] is None else sum(run[k] or 0.0 for run in runs) / _REPEATS for k in (2, 3))
    return Speed(
        batch,
        ids.numel() / first,
        first,
        tokens / rest,
        peak,
        prefill_energy=None if reading is None else reading / ids.numel(),
        decode_energy=None if writing is None else writing / tokens,
        prefill_layers=_layers(model, ids, 0),
        decode_layers=_layers(model, ids, config.latency_tokens),
    )


def speed_measurements(found: Sequence[Speed], full: Sequence[Speed] | None) -> list[Measurement]:
    """One measurement for each number and batch size; full: what full precision reached in the same run."""
    kinds = (
        ("prefill_speed", "tokens/s", True, lambda speed: speed.prefill),
        ("time_to_first_token", "s", False, lambda speed: speed.first_token),
        ("decode_speed", "tokens/s", True, lambda speed: speed.decode),
        ("peak_device_memory", "bytes", False, lambda speed: speed.peak_bytes),
        ("prefill_energy", "J/token", False, lambda speed: speed.prefill_energy),
        ("decode_energy", "J/token", False, lambda speed: speed.decode_energy),
    )
    measurements = []
    for index, speed in enumerate(found):
        beside = None if full is None else full[index]
        for metric, unit, higher, value in kinds:
            if value(speed) is not None:
                baseline = None if beside is None else value(beside)
                measurements.append(
                    Measurement(metric, f"batch_{speed.batch}", value(speed), unit, _REPEATS, baseline=baseline,
                                higher_is_better=higher)
                )  # fmt: skip
        for metric, attribute in ((PREFILL_TIME, "prefill_layers"), (DECODE_TIME, "decode_layers")):
            if layers := getattr(speed, attribute):
                others = None if beside is None else getattr(beside, attribute)
                measurements.append(time_measurement(metric, speed.batch, layers, others, count=_REPEATS))
    return measurements


def _generate(model: Any, ids: Tensor, count: int) -> tuple[float, float, float | None, float | None]:
    """Seconds to the first token after ``ids`` [batch, prompt], and for ``count`` more, greedily, with a cache; joules
    of both."""
    joules = energy_counter(ids.device)
    start, before = _now(ids.device), joules and joules()
    output = model(input_ids=ids, use_cache=True, logits_to_keep=1)
    first, between = _now(ids.device), joules and joules()
    _write(model, output, count)
    end, after = _now(ids.device), joules and joules()
    if before is None or between is None or after is None:
        return first - start, end - first, None, None
    return first - start, end - first, between - before, after - between


def _write(model: Any, output: Any, count: int) -> None:
    token = output.logits[:, -1:].argmax(-1)
    for _ in range(count):
        output = model(input_ids=token, past_key_values=output.past_key_values, use_cache=True, logits_to_keep=1)
        token = output.logits[:, -1:].argmax(-1)


def _layers(model: Any, ids: Tensor, count: int) -> dict[str, float]:
    """Median seconds of a pass by kind of layer: of reading ``ids``, or of writing each of ``count`` tokens behind."""
    runs = []
    for _ in range(_REPEATS):
        with timed_layers(model, ids.device) as marks:
            output = model(input_ids=ids, use_cache=True, logits_to_keep=1)
            if count:
                for seen in marks.values():
                    seen.clear()
                _write(model, output, count)
        _now(ids.device)
        runs.append(seconds_by_kind(marks))
    return {kind: statistics.median(run[kind] for run in runs) / max(1, count) for kind in runs[0]}


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
