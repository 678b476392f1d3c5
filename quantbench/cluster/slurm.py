"""Jobs on Slurm: submitted as one array by submitit, watched in the queue."""

import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from quantbench.cluster.job import Job, Lost
from quantbench.cluster.options import Slurm
from quantbench.errors import InputError

# https://slurm.schedmd.com/squeue.html, JOB STATE CODES: those that a job does not leave by itself
_ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"}
_LOOKS = 3  # how often a job may be ended without a result: a shared file system shows a new file late
_GONE = "no longer known to Slurm"


def run(jobs: Sequence[Job], options: Slurm, folder: Path) -> Iterator[tuple[int, Any]]:
    """Every job's index with its result or :class:`Lost`, as they end.

    Raises:
        InputError: Slurm is not here, or refuses the jobs.
    """
    executor = _executor(options, folder)
    waiting = dict(enumerate(jobs))
    attempts = dict.fromkeys(waiting, 0)
    while waiting:
        submitted = _submit(executor, waiting)
        waiting = {}
        for index, outcome in _outcomes(submitted, options.poll_seconds):
            attempts[index] += 1
            if isinstance(outcome, Lost) and outcome.retry and attempts[index] <= options.retries:
                waiting[index] = jobs[index]
            else:
                yield index, outcome


def _executor(options: Slurm, folder: Path) -> Any:
    try:
        import submitit

        # max_num_timeout: a job whose time is over queues itself again, before Slurm kills it
        executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=options.retries)
    except ImportError as error:
        raise InputError("hydra/launcher=slurm needs submitit: pip install 'quantbench[launchers]'") from error
    except RuntimeError as error:
        raise InputError(f"hydra/launcher=slurm: no Slurm on this machine ({str(error).rstrip('?')})") from error
    more = dict(options.sbatch) | ({"requeue": True} if options.requeue else {"no-requeue": True})
    given = {
        "name": "quantbench",
        "timeout_min": options.minutes and max(1, round(options.minutes)),
        "mem_gb": options.memory_gb,
        "cpus_per_task": options.cpus,
        "slurm_gpus_per_node": options.gpus or None,
        "slurm_array_parallelism": options.jobs_at_once,
        "slurm_partition": options.partition,
        "slurm_account": options.account,
        "slurm_qos": options.qos,
        "slurm_constraint": options.constraint,
        "slurm_setup": options.setup or None,
        "slurm_additional_parameters": more,
        "slurm_stderr_to_stdout": True,
    }
    executor.update_parameters(**{key: value for key, value in given.items() if value is not None})
    return executor


def _submit(executor: Any, jobs: Mapping[int, Job]) -> dict[int, Any]:
    from submitit.core.utils import FailedJobError

    try:
        submitted = executor.submit_array(list(jobs.values()))
    except FailedJobError as error:
        raise InputError(f"sbatch refuses the job: {' '.join(str(error).split())}") from error
    print(f"Slurm: {len(submitted)} jobs as array {submitted[0].job_id.split('_')[0]}", flush=True)
    return dict(zip(jobs, submitted, strict=True))


def _outcomes(submitted: Mapping[int, Any], poll_seconds: float) -> Iterator[tuple[int, Any]]:
    """Results where there are any; a job that is over and has written none is lost."""
    pending, ended = dict(submitted), dict.fromkeys(submitted, 0)
    while pending:
        states = job_states([job.job_id for job in pending.values()])
        for index, job in list(pending.items()):
            state = states.get(job.job_id)
            if state is not None:
                ended[index] = ended[index] + 1 if state in _ENDED | {_GONE} else 0
            if job.paths.result_pickle.exists():
                outcome = _result(job)
            elif state is not None and ended[index] >= _LOOKS:
                outcome = Lost(state, retry=state != "CANCELLED")  # what the user cancelled stays so
            else:
                continue
            del pending[index]
            yield index, outcome
        if pending:
            time.sleep(poll_seconds)


def _result(job: Any) -> Any:
    error = job.exception()
    return job.result() if error is None else Lost(_reason(str(error)), retry=False)


def _reason(trace: str) -> str:
    """The exception at the end of submitit's report of a job that raised one."""
    lines = [line for line in trace.split("-" * 22)[1].splitlines() if line.strip()]
    return lines[-1].strip()


def job_states(identifiers: Sequence[str]) -> dict[str, str]:
    """State of each array task, from the queue (sacct would need an accounting database); empty if nobody answers."""
    arrays = ",".join(sorted({identifier.split("_")[0] for identifier in identifiers}))
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%F_%K %T", f"--jobs={arrays}"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode and "Invalid job id" not in answer.stderr:
        return {}  # the controller is away: what it would say is unknown
    listed = dict(line.split() for line in answer.stdout.splitlines())
    single = {name.removesuffix("_N/A"): state for name, state in listed.items()}
    return {identifier: single.get(identifier, _GONE) for identifier in identifiers}
