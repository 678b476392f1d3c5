"""Seconds and peak memory of the stages of a run."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

_START = "start"


class Stages:
    """Collects seconds and peak bytes by stage; host memory always, device memory where there is CUDA."""

    def __init__(self, device: torch.device, *, of: "Stages | None" = None) -> None:
        """of: other stages of the same process; all know where it is."""
        self.device = device
        self._place: list[str] = [_START] if of is None else of._place
        self.seconds: dict[str, float] = {}
        self.peak_memory: dict[str, dict[str, int]] = {}

    @property
    def current(self) -> str:
        """The stage that was last begun."""
        return self._place[0]

    @property
    def begun(self) -> bool:
        """Whether any stage was."""
        return self.current != _START

    def followed_by(self, later: "Stages") -> "Stages":
        """What this one measured, and what another did."""
        both = Stages(self.device, of=self)
        both.seconds = self.seconds | later.seconds
        both.peak_memory = self.peak_memory | later.peak_memory
        return both

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure what runs inside; ``current`` is its name from then on, so that a failure can say where it was."""
        self._place[0] = name
        _reset_host_peak()
        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        start = time.perf_counter()
        try:
            yield
        finally:
            if cuda:
                torch.cuda.synchronize(self.device)
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
            peak = {"host": _host_peak()}
            if cuda:
                peak["device"] = torch.cuda.max_memory_allocated(self.device)
            self.peak_memory[name] = peak


def _reset_host_peak() -> None:
    """Restart the kernel's high-water mark of this process (Linux); elsewhere the peak is that of the run so far."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _host_peak() -> int:
    try:
        status = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        status = []
    for line in status:
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
