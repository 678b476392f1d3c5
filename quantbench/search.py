"""Search for the Pareto front of size against loss: which settings lose least at each number of bits per weight."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from quantbench.errors import InputError
from quantbench.measurement import Measurement

_REPEATS = 50  # proposals in a row that are known already, before the sampler is set aside
_FINISHED, _FIXED, _SPACE = "finished", "fixed", "space"


@dataclass
class Search:
    """Where to search and for how long.

    trials: different settings to try, those of an earlier search of the same ``study`` included, which is continued;
    at_once: given to the launcher together; seed: of the proposals; startup: trials proposed at random before the
    sampler learns. space: name -> values of the setting of that name, or name -> {label: [overrides ...]} where several
    settings go together; the sweeps of the command line join it.
    """

    _target_: str = "hydra_plugins.quantbench_search.ParetoSweeper"
    trials: int = 50
    at_once: int = 4
    seed: int = 0
    startup: int = 10
    study: str = "pareto"
    space: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("trials", "at_once", "startup"):
            if getattr(self, name) < 1:
                raise ValueError(f"hydra.sweeper.{name}={getattr(self, name)}: allowed are positive integers")
        if not self.study or set(self.study) & set("/\\\0") or self.study.startswith("."):
            raise ValueError(f"hydra.sweeper.study={self.study}: allowed is a file name")


@dataclass(frozen=True)
class Choices:
    """A dimension with finitely many values. options: label -> overrides."""

    options: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, name: str, values: Any) -> "Choices":
        """From the space of a :class:`Search`.

        Raises:
            InputError: there is nothing to choose from.
        """
        if not values or isinstance(values, str):
            raise InputError(f"hydra.sweeper.space.{name}={values}: allowed are [values] or {{label: [overrides]}}")
        if isinstance(values, Mapping):
            return cls({str(label): list(overrides) for label, overrides in values.items()})
        texts = ["null" if value is None else str(value) for value in values]
        return cls({text: [f"{name}={text}"] for text in texts})


@dataclass(frozen=True)
class Interval:
    """A dimension of real numbers."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Trial:
    """A proposal: Optuna's trial, and the overrides that it stands for."""

    proposed: Any
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Point:
    """What a trial found."""

    bits_per_weight: float
    kl_divergence: float
    overrides: tuple[str, ...]


class ParetoSearch:
    """An Optuna study in a journal file, which several processes may extend and a later search continues."""

    def __init__(
        self, options: Search, space: Mapping[str, Choices | Interval], fixed: Sequence[str], folder: Path
    ) -> None:
        """fixed: what all trials have in common; a study is of one model and one evaluation.

        Raises:
            InputError: Optuna is not installed, or the study was begun with other settings.
        """
        try:
            import optuna
            from optuna.storages.journal import JournalFileBackend
        except ImportError as error:
            raise InputError("hydra/sweeper=optuna needs Optuna: pip install 'quantbench[launchers]'") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        if not space:
            raise InputError("nothing to search: give hydra.sweeper.space, or sweeps such as bits=2,3,4")
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / f"{options.study}.journal"
        self._optuna, self._options, self._space = optuna, options, space
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(self.file)))
        self._study = optuna.create_study(
            storage=storage, study_name=options.study, directions=["minimize", "minimize"], load_if_exists=True
        )
        # Another seed for every continuation: the same one would propose the same settings again.
        seed = (options.seed + len(self._study.trials)) % 2**32
        self._study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=options.startup)
        self._random = optuna.samplers.RandomSampler(seed=seed)
        self._check(list(fixed))

    def _check(self, fixed: list[str]) -> None:
        """A study is of one space, with everything else fixed."""
        space = {
            name: dict(dimension.options) if isinstance(dimension, Choices) else asdict(dimension)
            for name, dimension in self._space.items()
        }
        attributes = self._study.user_attrs
        if attributes.get(_FIXED, fixed) != fixed:
            begun = " ".join(attributes[_FIXED]) or "the defaults"
            this = " ".join(fixed) or "the defaults"
            raise InputError(f"{self.file} searches {begun}, not {this}: give another hydra.sweeper.study")
        if attributes.get(_SPACE, space) != space:
            raise InputError(f"{self.file} searches another space: give another hydra.sweeper.study")
        self._study.set_user_attr(_FIXED, fixed)
        self._study.set_user_attr(_SPACE, space)

    @property
    def finished(self) -> int:
        """Trials that have an answer, a failure included."""
        return len(self._known())

    def _known(self) -> set[tuple[str, ...]]:
        return {self._overrides(t.params) for t in self._study.trials if _FINISHED in t.user_attrs}

    @contextmanager
    def batch(self) -> Iterator[list[Trial]]:
        """The next proposals, none if the search is over; those not answered inside are given back."""
        trials = list(self._proposals(min(self._options.at_once, self._options.trials - self.finished)))
        try:
            yield trials
        finally:
            open_ones = {t.number for t in self._study.trials if not t.state.is_finished()}
            for trial in trials:
                if trial.proposed.number in open_ones:
                    self._fail(trial.proposed)

    def _proposals(self, count: int) -> Iterator[Trial]:
        """Settings that no trial has had yet."""
        distributions = {name: self._distribution(dimension) for name, dimension in self._space.items()}
        known, repeats = self._known(), 0
        total = math.prod(len(d.options) if isinstance(d, Choices) else math.inf for d in self._space.values())
        while count > 0 and len(known) < total:
            if repeats == _REPEATS:
                self._study.sampler = self._random
            proposed = self._study.ask(distributions)
            overrides = self._overrides(proposed.params)
            if overrides in known:
                self._fail(proposed)
                repeats += 1
                continue
            known.add(overrides)
            count, repeats = count - 1, 0
            yield Trial(proposed, overrides)

    def _distribution(self, dimension: Choices | Interval) -> Any:
        if isinstance(dimension, Choices):
            return self._optuna.distributions.CategoricalDistribution(list(dimension.options))
        return self._optuna.distributions.FloatDistribution(dimension.low, dimension.high, log=dimension.log)

    def _overrides(self, params: Mapping[str, Any]) -> tuple[str, ...]:
        parts = []
        for name, dimension in self._space.items():
            if name in params:
                value = params[name]
                parts.append(dimension.options[value] if isinstance(dimension, Choices) else [f"{name}={value}"])
        return tuple(itertools.chain.from_iterable(parts))

    def tell(self, trial: Trial, point: tuple[float, float] | None) -> None:
        """What the trial found: bits per weight and KL divergence, or None if it failed."""
        trial.proposed.set_user_attr(_FINISHED, True)
        if point is None or not all(map(math.isfinite, point)):
            self._fail(trial.proposed)
        else:
            self._study.tell(trial.proposed, list(point))

    def _fail(self, proposed: Any) -> None:
        self._study.tell(proposed, state=self._optuna.trial.TrialState.FAIL)

    def front(self) -> list[Point]:
        """The trials that no other beats in both, smallest first."""
        best = self._study.best_trials
        points = [Point(trial.values[0], trial.values[1], self._overrides(trial.params)) for trial in best]
        return sorted(points, key=lambda point: (point.bits_per_weight, point.kl_divergence))


def objectives(bits_per_weight: float, measurements: Sequence[Measurement]) -> tuple[float, float]:
    """Bits per weight and the mean KL divergence from full precision.

    Raises:
        InputError: the divergence was not measured.
    """
    values = [m.value for m in measurements if m.metric == "kl_divergence"]
    if not values:
        raise InputError("the search compares with full precision's predictions: evaluation.divergence must be true")
    return bits_per_weight, sum(values) / len(values)
