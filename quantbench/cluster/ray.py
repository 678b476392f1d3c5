"""Jobs as tasks of a Ray cluster."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from quantbench.cluster.job import Job, Lost, within
from quantbench.cluster.options import Ray
from quantbench.errors import InputError


def run(jobs: Sequence[Job], options: Ray, folder: Path) -> Iterator[tuple[int, Any]]:
    """Every job's index with its result or :class:`Lost`, as they end.

    Raises:
        InputError: Ray is not installed, or its cluster does not answer or has not what one job needs.
    """
    try:
        import ray
    except ImportError as error:
        raise InputError("hydra/launcher=ray needs Ray: pip install 'quantbench[launchers]'") from error
    started = not ray.is_initialized()
    if started:
        _connect(ray, options)
    try:
        yield from _results(ray, jobs, options)
    finally:
        if started:
            ray.shutdown()


def _connect(ray: Any, options: Ray) -> None:
    try:
        ray.init(address=options.address, include_dashboard=False if options.address is None else None)
    except (ConnectionError, ValueError) as error:
        raise InputError(f"hydra.launcher.address={options.address}: {str(error).splitlines()[0]}") from error


def _results(ray: Any, jobs: Sequence[Job], options: Ray) -> Iterator[tuple[int, Any]]:
    needed = _needed(ray.cluster_resources(), options)
    # Ray starts a task again where its process or machine died; an exception of ours is a result.
    task = ray.remote(max_retries=options.retries, **needed)(within)
    pending = {task.remote(options.minutes, job): index for index, job in enumerate(jobs)}
    while pending:
        for done in ray.wait(list(pending))[0]:
            index = pending.pop(done)
            try:
                outcome = ray.get(done)
            except ray.exceptions.RayError as error:
                outcome = Lost(str(error).strip().splitlines()[0])
            yield index, outcome


def _needed(there: dict[str, float], options: Ray) -> dict[str, float]:
    """Resources of one task; a task that no cluster of this size could hold would wait for ever."""
    gpus = min(1, int(there.get("GPU", 0))) if options.gpus is None else options.gpus
    memory = 0 if options.memory_gb is None else int(options.memory_gb * 2**30)
    for name, resource, count in (
        ("gpus", "GPU", gpus),
        ("cpus", "CPU", options.cpus),
        ("memory_gb", "memory", memory),
    ):
        if count > there.get(resource, 0):
            has = there.get(resource, 0) / (2**30 if resource == "memory" else 1)
            raise InputError(f"hydra.launcher.{name}={getattr(options, name)}: the whole Ray cluster has {has:g}")
    return {"num_gpus": gpus, "num_cpus": options.cpus, "memory": memory}
