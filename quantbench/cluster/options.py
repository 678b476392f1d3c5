"""What a cluster launcher is asked for, in the same words for every kind of cluster."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Resources:
    """What one job of a sweep gets, and how the sweep is cut into jobs.

    runs_per_job: neighbouring runs of the sweep that one job does, so that they share what they load; inner_launcher:
    Hydra's launcher that does them there. gpus: of one job; null is one where there are any. cpus, memory_gb, minutes:
    of one job; null leaves memory and time to the cluster. retries: how often a job that was killed, lost its machine
    or used up its time starts again; it goes on with the runs that are not stored yet. A run that fails by itself is
    not tried again.
    """

    runs_per_job: int = 1
    inner_launcher: str = "fused"
    gpus: int | None = None
    cpus: int = 1
    memory_gb: float | None = None
    minutes: float | None = None
    retries: int = 2

    def __post_init__(self) -> None:
        for name, lowest in (("runs_per_job", 1), ("gpus", 0), ("cpus", 1), ("retries", 0), ("jobs_at_once", 1)):
            value = getattr(self, name, None)
            if value is not None and value < lowest:
                raise ValueError(f"hydra.launcher.{name}={value}: allowed are integers from {lowest}")
        for name in ("memory_gb", "minutes"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"hydra.launcher.{name}={value}: allowed are positive numbers, or null")


@dataclass
class Slurm(Resources):
    """One array job on Slurm. Slurm cannot be asked whether it has GPUs, so ``gpus`` is 1 unless said otherwise.

    jobs_at_once: of the array; null for no limit. partition, account, qos, constraint: as Slurm's. requeue: after
    preemption, or when the node dies. setup: shell lines before the job starts. sbatch: any other option of sbatch, by
    its name without dashes in front. poll_seconds: between two looks at the queue.
    """

    _target_: str = "hydra_plugins.quantbench_cluster.SlurmLauncher"
    gpus: int | None = 1
    jobs_at_once: int | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    requeue: bool = True
    setup: list[str] = field(default_factory=list)
    sbatch: dict[str, Any] = field(default_factory=dict)
    poll_seconds: float = 5.0


@dataclass
class Ray(Resources):
    """Tasks on a Ray cluster. address: of its head (``auto``: the one of this machine); null starts one here."""

    _target_: str = "hydra_plugins.quantbench_cluster.RayLauncher"
    address: str | None = None


@dataclass
class Joblib(Resources):
    """Processes on this machine. jobs_at_once: null is as many as its GPUs allow, or its cores where it has none."""

    _target_: str = "hydra_plugins.quantbench_cluster.JoblibLauncher"
    jobs_at_once: int | None = None
