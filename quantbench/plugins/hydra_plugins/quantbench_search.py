"""Hydra's sweeper for ``hydra/sweeper=optuna``: a search instead of every combination."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from quantbench.errors import InputError, JobFailedError
from quantbench.search import Choices, Interval, ParetoSearch, Search, objectives

# Settings that change where or how a run is done, not what it finds: a study may go on with others.
_FREE = ("results_dir", "logger", "device", "force")


class ParetoSweeper(Sweeper):
    """Has batches of proposals done by the launcher, until there are enough. Every trial is a run in the store."""

    def __init__(self, **options: Any) -> None:
        self._given = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._context, self._config = hydra_context, config
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        options = self._options()
        parser = OverridesParser.create(config_loader=self._context.config_loader)
        parsed = parser.parse_overrides(list(arguments))
        fixed = [override for override in parsed if not override.is_sweep_override()]
        common = [o.input_line or "" for o in fixed if o.key_or_group.split(".")[0] not in _FREE]
        folder = Path(self._config.results_dir) / "search"
        search = ParetoSearch(options, _space(options, parsed), sorted(common), folder)
        self._run(search, [o.input_line or "" for o in fixed], options)
        for point in search.front():
            settings = " ".join(point.overrides)
            print(f"{point.bits_per_weight:7.3f} bits/weight  {point.kl_divergence:8.4f} nats  {settings}", flush=True)

    def _run(self, search: ParetoSearch, fixed: list[str], options: Search) -> None:
        failed = done = 0
        while True:
            with search.batch() as trials:
                if not trials:
                    break
                jobs = [[*fixed, *trial.overrides] for trial in trials]
                for trial, answer in zip(trials, self._launcher.launch(jobs, done), strict=True):
                    point = _answer(answer)
                    failed += point is None
                    search.tell(trial, point)
            done += len(trials)
            print(f"search {search.file}: {search.finished} of {options.trials} trials", file=sys.stderr, flush=True)
        if done and failed == done:
            raise JobFailedError(1)

    def _options(self) -> Search:
        plain: dict[str, Any] = {
            key: OmegaConf.to_object(v) if OmegaConf.is_config(v) else v for key, v in self._given.items()
        }
        try:
            return Search(**plain)
        except ValueError as error:
            raise InputError(str(error)) from error


def _space(options: Search, parsed: Sequence[Override]) -> dict[str, Choices | Interval]:
    """The configured space, without what the command line fixes, with what it sweeps."""
    given = {override.key_or_group for override in parsed}
    space: dict[str, Choices | Interval] = {
        name: Choices.of(name, values) for name, values in options.space.items() if name not in given
    }
    for override in parsed:
        if override.is_interval_sweep():
            sweep = override.value()
            assert isinstance(sweep, IntervalSweep)
            space[override.get_key_element()] = Interval(float(sweep.start), float(sweep.end), log="log" in sweep.tags)
        elif override.is_sweep_override():
            name = override.get_key_element()
            texts = [str(value) for value in override.sweep_string_iterator()]
            space[name] = Choices({text: [f"{name}={text}"] for text in texts})
    return space


def _answer(answer: JobReturn) -> tuple[float, float] | None:
    """What a run found; None for one that failed and has said why.

    Raises:
        Exception: an error that is no run's own.
    """
    if answer.status is not JobStatus.COMPLETED:
        error = answer._return_value
        if isinstance(error, JobFailedError):
            return None
        raise error
    recorded = answer.return_value
    return objectives(recorded.identity.bits_per_weight, recorded.measurements)
