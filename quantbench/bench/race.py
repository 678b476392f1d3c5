"""Timing short calls on one device: interleaved, warm apart from cold, on buffers that the cache does not hold."""

import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Call = Callable[[], Tensor]
Clock = Callable[[], float]
_LEAST_CACHE = 32 * 2**20  # bytes to rotate past where the device does not say how large its cache is
_MOST_BUFFERS = 16
_SLEEP_CYCLES = 2_000_000  # about a millisecond, in which the calls behind it are queued


@dataclass(frozen=True)
class Timing:
    """Seconds of one warm call: the median and the 20th and 80th percentiles."""

    median: float
    low: float
    high: float


def race(
    contenders: Mapping[str, Sequence[Call]],
    device: torch.device,
    *,
    repeats: int,
    warmups: int,
    eager: Collection[str] = (),
    clock: Clock = time.perf_counter,
) -> dict[str, Timing]:
    """Time contenders in turns. Each brings one call for each set of buffers; a turn makes all of them.

    On CUDA a turn is one replay of a graph of the calls, so what the host does between them is not counted; calls that
    cannot be captured are queued behind a sleep instead; the ``eager`` are timed by the clock, host and all.
    """
    turns = {name: _turn(calls, device, name in eager, clock) for name, calls in contenders.items()}
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(warmups + repeats):
        for name, turn in turns.items():
            seconds = turn()
            if repeat >= warmups:
                samples[name].append(seconds)
    return {name: Timing(*_spread(taken)) for name, taken in samples.items()}


def buffers_past_cache(nbytes: int, device: torch.device) -> int:
    """How many sets of buffers of so many bytes it takes to be twice as large as the cache."""
    cache = _LEAST_CACHE
    if device.type == "cuda":
        cache = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", cache)
    return max(1, min(_MOST_BUFFERS, -(-2 * cache // max(1, nbytes))))


def _spread(samples: Sequence[float]) -> tuple[float, float, float]:
    if len(samples) == 1:
        return samples[0], samples[0], samples[0]
    fifths = statistics.quantiles(samples, n=5, method="inclusive")
    return statistics.median(samples), fifths[0], fifths[3]


def timed(call: Call, device: torch.device, clock: Clock = time.perf_counter) -> tuple[Tensor, float]:
    """A result and the seconds by the clock until it is there."""
    start = clock()
    result = call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, clock() - start


def _turn(calls: Sequence[Call], device: torch.device, eager: bool, clock: Clock) -> Callable[[], float]:
    """A function that makes all calls once and returns the seconds of one."""
    if eager or device.type != "cuda":
        return lambda: sum(timed(call, device, clock)[1] for call in calls) / len(calls)
    for call in calls:
        call()
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            for call in calls:
                call()
    except RuntimeError:  # it looks at a result on the host, or uses a stream of its own
        torch.cuda.synchronize(device)
        return lambda: _between_events(lambda: [call() for call in calls], len(calls), sleep=True)
    return lambda: _between_events(graph.replay, len(calls), sleep=False)


def _between_events(work: Callable[[], object], count: int, *, sleep: bool) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    if sleep:
        torch.cuda._sleep(_SLEEP_CYCLES)
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / count
