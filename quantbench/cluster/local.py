"""Jobs in processes of their own on this machine, one for each GPU (or core), scheduled by joblib."""

import os
import pickle
import queue
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from quantbench.cluster.job import Job, Lost
from quantbench.cluster.options import Joblib
from quantbench.errors import InputError

_VISIBLE = "CUDA_VISIBLE_DEVICES"


def run(jobs: Sequence[Job], options: Joblib, folder: Path) -> Iterator[tuple[int, Any]]:
    """Every job's index with its result or :class:`Lost`, as they end. What a job prints goes to a file in ``folder``.

    A thread waits for each process: one that is killed takes no other with it, and its GPUs are set before CUDA starts.

    Raises:
        InputError: joblib is not installed, or a job needs more GPUs than there are.
    """
    try:
        from joblib import Parallel, delayed
    except ImportError as error:
        raise InputError("hydra/launcher=joblib needs joblib: pip install 'quantbench[launchers]'") from error
    slots = device_slots(options, visible_devices(), os.cpu_count() or 1)
    folder.mkdir(parents=True, exist_ok=True)
    with _Processes(options, slots) as processes:
        parallel = Parallel(n_jobs=len(slots), backend="threading", return_as="generator_unordered", pre_dispatch="all")
        yield from parallel(delayed(processes.result)(index, job, folder) for index, job in enumerate(jobs))


def visible_devices() -> list[str]:
    """The GPUs that this process may use, as CUDA names them."""
    if (given := os.environ.get(_VISIBLE)) is not None:
        return [name.strip() for name in given.split(",") if name.strip()]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def device_slots(options: Joblib, devices: Sequence[str], cores: int) -> list[list[str]]:
    """For each job that runs at once, its GPUs.

    Raises:
        InputError: a job needs more GPUs than there are.
    """
    gpus = min(1, len(devices)) if options.gpus is None else options.gpus
    if gpus > len(devices):
        raise InputError(f"hydra.launcher.gpus={gpus}: this machine has {len(devices)}")
    fitting = len(devices) // gpus if gpus else max(1, cores // options.cpus)
    count = fitting if options.jobs_at_once is None else min(fitting, options.jobs_at_once)
    return [list(devices[index * gpus : (index + 1) * gpus]) for index in range(count)]


class _Processes:
    """Runs jobs in child processes; those that still run are killed at the end."""

    def __init__(self, options: Joblib, slots: Sequence[list[str]]) -> None:
        self._options = options
        self._free: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
        for slot in slots:
            self._free.put(slot)
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def __enter__(self) -> "_Processes":
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.kill()

    def result(self, index: int, job: Job, folder: Path) -> tuple[int, Any]:
        """The job's index with its result, after as many tries as it takes and may take."""
        source, target, log = (folder / f"{index}.{ending}" for ending in ("job", "result", "log"))
        source.write_bytes(pickle.dumps(job))
        devices = self._free.get()
        try:
            for _ in range(self._options.retries + 1):
                reason = self._attempt([str(source), str(target)], devices, log)
                if target.exists():
                    return index, pickle.loads(target.read_bytes())
                if self._stopped:
                    break
            return index, Lost(f"{reason}; its output is in {log}")
        finally:
            self._free.put(devices)

    def _attempt(self, files: Sequence[str], devices: Sequence[str], log: Path) -> str:
        """One process for the job; returns how it ended."""
        command = [sys.executable, "-m", "quantbench.cluster.job", *files]
        environment = os.environ | {_VISIBLE: ",".join(devices)}
        seconds = None if self._options.minutes is None else self._options.minutes * 60
        with log.open("ab") as output:
            with self._lock:
                if self._stopped:
                    return "not started"
                process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
                self._running.add(process)
            self._limit(process.pid)
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                return f"not done after {self._options.minutes:g} minutes"
            finally:
                with self._lock:
                    self._running.discard(process)
        return f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}"

    def _limit(self, process: int) -> None:
        """Let allocations beyond the job's memory fail (RLIMIT_DATA: what CUDA only reserves does not count)."""
        if self._options.memory_gb is not None:
            limit = int(self._options.memory_gb * 2**30)
            resource.prlimit(process, resource.RLIMIT_DATA, (limit, limit))
