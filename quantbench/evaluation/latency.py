"""How fast a model reads a prompt and writes tokens after it."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quantbench.evaluation.config import Evaluation
from quantbench.evaluation.scoring import model_device, vocabulary_of
from quantbench.measurement import Measurement

_REPEATS, _WARMUPS = 5, 1


@dataclass(frozen=True)
class Speed:
    """Medians at one batch size. prefill: prompt tokens a second; first_token: seconds until it is known; decode:
    tokens a second after it, of all sequences together; peak_bytes: of device memory, None on a processor."""

    batch: int
    prefill: float
    first_token: float
    decode: float
    peak_bytes: int | None


@torch.inference_mode()
def speeds(model: Any, config: Evaluation) -> list[Speed]:
    """Speed at each batch size of ``config.latency_batches``, on random tokens (what they are does not matter)."""
    found = []
    for batch in config.latency_batches:
        generator = torch.Generator().manual_seed(batch)
        ids = torch.randint(vocabulary_of(model), (batch, config.latency_prompt), generator=generator)
        ids = ids.to(model_device(model))
        if ids.is_cuda:
            torch.cuda.reset_peak_memory_stats(ids.device)
        runs = [_generate(model, ids, config.latency_tokens) for _ in range(_WARMUPS + _REPEATS)][_WARMUPS:]
        first, rest = (statistics.median(seconds) for seconds in zip(*runs, strict=True))
        peak = torch.cuda.max_memory_allocated(ids.device) if ids.is_cuda else None
        found.append(Speed(batch, ids.numel() / first, first, batch * config.latency_tokens / rest, peak))
    return found


def speed_measurements(found: Sequence[Speed], full: Sequence[Speed] | None) -> list[Measurement]:
    """One measurement for each number and batch size; full: what full precision reached in the same run."""
    kinds = (
        ("prefill_speed", "tokens/s", True, lambda speed: speed.prefill),
        ("time_to_first_token", "s", False, lambda speed: speed.first_token),
        ("decode_speed", "tokens/s", True, lambda speed: speed.decode),
        ("peak_device_memory", "bytes", False, lambda speed: speed.peak_bytes),
    )
    measurements = []
    for index, speed in enumerate(found):
        for metric, unit, higher, value in kinds:
            if value(speed) is not None:
                baseline = None if full is None else value(full[index])
                measurements.append(
                    Measurement(metric, f"batch_{speed.batch}", value(speed), unit, _REPEATS, baseline=baseline,
                                higher_is_better=higher)
                )  # fmt: skip
    return measurements


def _generate(model: Any, ids: Tensor, count: int) -> tuple[float, float]:
    """Seconds to the first token after ``ids`` [batch, prompt], and for ``count`` more, greedily, with a cache."""
    start = _now(ids.device)
    output = model(input_ids=ids, use_cache=True, logits_to_keep=1)
    token = output.logits[:, -1:].argmax(-1)
    first = _now(ids.device)
    for _ in range(count):
        output = model(input_ids=token, past_key_values=output.past_key_values, use_cache=True, logits_to_keep=1)
        token = output.logits[:, -1:].argmax(-1)
    return first - start, _now(ids.device) - first


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
