"""A sweep on a Ray cluster of two worker processes, of which this test kills one."""

import os
import signal
from pathlib import Path

import pytest

from tests.cluster.slurm import until
from tests.cluster.sweep import assert_complete, issue, written

pytest.importorskip("ray")
RAY = ["hydra/launcher=ray", "hydra.launcher.gpus=0"]


def children(process):
    """Processes below a process, from /proc."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    found = {process}
    while new := {child for child, parent in parents.items() if parent in found} - found:
        found |= new
    return found


def workers(driver):
    """Ray's processes that have a task now; they are named after it."""
    named = {}
    for process in children(driver):
        try:
            named[process] = Path(f"/proc/{process}/cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
    return [process for process, name in named.items() if name.startswith("ray::within")]


def sweep(folder, *arguments):
    limits = {"RAY_DISABLE_MEMORY_MONITOR": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_OVERRIDE_RESOURCES": '{"CPU": 2}'}
    return issue(folder, *RAY, *arguments, environment=os.environ | limits)


def test_a_sweep_goes_on_without_a_worker_that_was_killed(tmp_path):
    first = sweep(tmp_path, "hydra.launcher.runs_per_job=3", "hydra.launcher.retries=0")
    try:
        until(lambda: len(workers(first.pid)) == 2, "there are not two workers", 120)
        os.kill(workers(first.pid)[0], signal.SIGKILL)
        said, _ = first.communicate(timeout=180)
    finally:
        first.kill()
    assert first.returncode == 1, said
    assert "ended without a result" in said, said
    before = written(tmp_path)
    assert len(before) == 9, said

    again = sweep(tmp_path, "hydra.launcher.runs_per_job=6")
    said, _ = again.communicate(timeout=180)
    assert again.returncode == 0, said
    assert_complete(tmp_path)
    assert before.items() <= written(tmp_path).items()  # what was stored has not been computed again
