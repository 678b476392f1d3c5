"""Seconds by the clock and of the processor, over repeats."""

import statistics
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def seconds_of(work: Callable[[], object]) -> float:
    """Seconds by the clock that a piece of work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


class Stopwatch:
    """Times the repeats of one piece of work."""

    def __init__(self) -> None:
        self._seconds: list[tuple[float, float]] = []

    def time(self, work: Callable[[], T]) -> T:
        """Do the work once and keep how long it took."""
        start, processor_start = time.perf_counter(), time.process_time()
        result = work()
        self._seconds.append((time.perf_counter() - start, time.process_time() - processor_start))
        return result

    @property
    def median(self) -> float:
        """Median seconds by the clock."""
        return statistics.median(seconds for seconds, _ in self._seconds)

    @property
    def processor_median(self) -> float:
        """Median seconds of the processor, all threads together."""
        return statistics.median(seconds for _, seconds in self._seconds)
