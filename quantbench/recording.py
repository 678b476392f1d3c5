"""What is kept of a run: its record, or why it failed; and what is said about it."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from quantbench.errors import InputError, QuantizationError, forget_frames
from quantbench.job import Job
from quantbench.measurement import Measurement
from quantbench.outcome import Outcome, failure, run_identity
from quantbench.report.terminal import show_run
from quantbench.stages import Stages
from quantbench.store.identity import git_state
from quantbench.store.record import RunIdentity
from quantbench.store.wandb_log import log_run

_HOST_OUT_OF_MEMORY = "can't allocate memory"


@dataclass(frozen=True)
class Recorded:
    """A run as it is stored."""

    identity: RunIdentity
    measurements: list[Measurement]


def show_stored(job: Job) -> Recorded:
    """Print the table of a run that is stored, and where other code stored it."""
    identity, measurements = job.store.read(job.identifier)
    print(f"Run {job.identifier} is already stored; force=true recomputes it.")
    commit, dirty = git_state(Path(__file__).parent)
    if (identity.git_commit, identity.git_dirty) != (commit, dirty) or dirty:
        print(f"It was stored by {_code(identity.git_commit, identity.git_dirty)}; this is {_code(commit, dirty)}.")
    show_run(identity, measurements, job.store.paths(job.identifier))
    return Recorded(identity, measurements)


def _code(commit: str | None, dirty: bool | None) -> str:
    changed = " with changes" if dirty else ""
    return f"commit {commit[:12]}{changed}" if commit else "an installed version"


def keep_failure(job: Job, error: Exception, stages: Stages) -> Exception:
    """Keep why a run failed; returns the error as it is to be said.

    Wrong input that is refused before anything is loaded (a text file that is not there) is no run that failed.
    """
    forget_frames(error)  # it outlives its run in a sweep, and would keep tensors and models alive
    error = _explained(error, job.device)
    if isinstance(error, InputError) and not stages.begun:
        return error
    with suppress(InputError):  # a full disk must not hide why the run failed
        job.store.write_failure(failure(job, error, stages))
    return error


def record(job: Job, outcome: Outcome, stages: Stages) -> Recorded:
    """Store a run, show its table and tell W&B."""
    identity, results_dir = run_identity(job, outcome, stages), job.config.results_dir
    paths = job.store.write(identity, outcome.measurements)
    show_run(identity, outcome.measurements, paths)
    line = log_run(identity, outcome.measurements, paths=paths, cfg=job.config.logger, results_dir=results_dir)
    if line:
        print(line)
    return Recorded(identity, outcome.measurements)


def out_of_memory(error: object) -> bool:
    """Whether it is an error that says so, of the host or of a device."""
    if not isinstance(error, Exception):
        return False
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or _HOST_OUT_OF_MEMORY in str(error)


def _explained(error: Exception, device: torch.device) -> Exception:
    """Running out of memory as a run that cannot go on, in one line; any other error as it is."""
    if isinstance(error, QuantizationError) or not out_of_memory(error):
        return error
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    explained = QuantizationError(f"out of memory on {device}: {reason}")
    explained.__cause__ = error
    return explained
