"""Hydra launchers that do a sweep's runs elsewhere: ``hydra/launcher=slurm``, ``ray`` or ``joblib``."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from quantbench.cluster import local, ray, slurm
from quantbench.cluster.job import Job, Lost
from quantbench.cluster.options import Joblib, Ray, Resources, Slurm
from quantbench.errors import InputError, JobFailedError


@dataclass(frozen=True)
class Chunk:
    """Some runs of a sweep. config: of the sweep, with the launcher that does them; first: the number of the first."""

    hydra_context: HydraContext
    task_function: TaskFunction
    config: DictConfig
    overrides: list[list[str]]
    first: int

    def __call__(self) -> Sequence[JobReturn]:
        """Do them, in this process."""
        setup_globals()
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self.hydra_context, task_function=self.task_function, config=self.config
        )
        return launcher.launch(self.overrides, self.first)


class ClusterLauncher(Launcher):
    """Cuts a sweep into jobs of a few runs each, has them done, and returns the runs in the sweep's order.

    The machines share the results folder and nothing else.
    """

    Options: type[Resources]
    run: Callable[..., Iterator[tuple[int, Any]]]

    def __init__(self, **options: Any) -> None:
        self._given = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._context, self._task, self._config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        setup_globals()
        configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)
        options = self._options()
        # a name of its own: sweeps that start in the same second share hydra.sweep.dir
        folder = Path(self._config.hydra.sweep.dir) / f"jobs-{initial_job_idx}-{token_hex(4)}"
        folder.mkdir(parents=True)
        chunks = list(self._chunks(job_overrides, initial_job_idx, options))
        print(f"Sweep of {len(job_overrides)} runs in {len(chunks)} jobs; their output goes to {folder}", flush=True)
        returns: dict[int, Sequence[JobReturn]] = {}
        for index, outcome in type(self).run([Job.of(chunk) for chunk in chunks], options, folder):
            _say(index, chunks[index], outcome)
            returns[index] = _lost(chunks[index]) if isinstance(outcome, Lost) else outcome
        return [run for index in range(len(chunks)) for run in returns[index]]

    def _options(self) -> Any:
        plain: dict[str, Any] = {
            key: OmegaConf.to_object(v) if OmegaConf.is_config(v) else v for key, v in self._given.items()
        }
        try:
            return self.Options(**plain)
        except ValueError as error:
            raise InputError(str(error)) from error

    def _chunks(self, overrides: Sequence[Sequence[str]], first: int, options: Resources) -> Iterator[Chunk]:
        config = self._config.copy()
        inner = self._context.config_loader.load_configuration(
            "config", [f"hydra/launcher={options.inner_launcher}"], RunMode.MULTIRUN
        )
        with open_dict(config):
            config.hydra.launcher = inner.hydra.launcher
        for start in range(0, len(overrides), options.runs_per_job):
            part = [list(run) for run in overrides[start : start + options.runs_per_job]]
            yield Chunk(self._context, self._task, config, part, first + start)


class SlurmLauncher(ClusterLauncher):
    """``hydra/launcher=slurm``."""

    Options, run = Slurm, staticmethod(slurm.run)


class RayLauncher(ClusterLauncher):
    """``hydra/launcher=ray``."""

    Options, run = Ray, staticmethod(ray.run)


class JoblibLauncher(ClusterLauncher):
    """``hydra/launcher=joblib``."""

    Options, run = Joblib, staticmethod(local.run)


def _lost(chunk: Chunk) -> list[JobReturn]:
    """What the sweeper is told about runs whose job left no result. Some may be stored; only the store knows."""
    failure = JobFailedError(1)
    return [JobReturn(overrides=run, status=JobStatus.FAILED, _return_value=failure) for run in chunk.overrides]


def _say(index: int, chunk: Chunk, outcome: Any) -> None:
    if isinstance(outcome, Lost):
        print(f"job {index} ended without a result ({outcome.reason}); its runs:", flush=True)
        failed = list(enumerate(chunk.overrides, chunk.first))
    else:
        failed = [
            (number, run)
            for number, (run, answer) in enumerate(zip(chunk.overrides, outcome, strict=True), chunk.first)
            if answer.status != JobStatus.COMPLETED
        ]
        print(f"job {index} done: {len(outcome) - len(failed)} of {len(outcome)} runs", flush=True)
    for number, run in failed:
        print(f"  not done: run {number}: {' '.join(run)}", file=sys.stderr, flush=True)
