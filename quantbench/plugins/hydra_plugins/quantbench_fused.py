"""The launcher ``fused``: hands all jobs of a sweep to ``quantbench.sweep`` at once.

Hydra accepts launchers from the namespace package ``hydra_plugins`` alone; ``quantbench.config.register`` puts this
folder on the path.
"""

from collections.abc import Sequence
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict


class FusedLauncher(Launcher):
    """Composes every job as Hydra's own launcher does, then does them together instead of calling the task function."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from quantbench.session import Session

        self.hydra_context, self.config, self.session = hydra_context, config, Session()

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """One answer for each job, in order; a failed one carries what ``__main__`` makes the exit code from."""
        from quantbench.config import job_label, known_presets, to_run_config
        from quantbench.errors import InputError, say
        from quantbench.sweep import run_sweep

        setup_globals()
        configure_log(self.config.hydra.job_logging, self.config.hydra.verbose)
        presets = known_presets(self.config.hydra)
        answers, runs = list[JobReturn](), list[tuple[Any, Any]]()
        for index, overrides in enumerate(job_overrides, initial_job_idx):
            answer, composed = self._composed(list(overrides), index)
            answers.append(answer)
            try:
                runs.append((to_run_config(answer.cfg), job_label(composed.hydra, presets)))
            except InputError as error:
                say(error)
                _fill(answer, error)
        waiting = [answer for answer in answers if answer.status is JobStatus.UNKNOWN]
        for answer, outcome in zip(waiting, run_sweep(runs, self.session), strict=True):
            _fill(answer, outcome)
        return answers

    def _composed(self, overrides: list[str], index: int) -> tuple[JobReturn, DictConfig]:
        config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = index
        HydraConfig.instance().set_config(config)  # for interpolations of ``hydra:``
        task = config.copy()
        with open_dict(task):
            del task["hydra"]
        return JobReturn(overrides=OmegaConf.to_container(config.hydra.overrides.task), cfg=task), config


def _fill(answer: JobReturn, outcome: Any) -> None:
    from quantbench.errors import JobFailedError, exit_code

    answer.status, answer.return_value = JobStatus.COMPLETED, outcome
    if isinstance(outcome, Exception):
        code = exit_code(outcome)
        answer.status, answer.return_value = JobStatus.FAILED, outcome if code is None else JobFailedError(code)
