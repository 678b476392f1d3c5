"""The runs that a study asks for, known without loading a model, and what those that are missing will take."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from quantbench.checks import pick_device
from quantbench.config import RunConfig, compose_jobs
from quantbench.determinants import determinants
from quantbench.label import Label
from quantbench.models.identity import ModelIdentity
from quantbench.models.load import identify
from quantbench.report.numbers import total_seconds
from quantbench.store.identity import run_id
from quantbench.study.definition import Study

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Expected:
    """A run that a study asks for. sweep: which of the study's sweeps it belongs to first."""

    run_id: str
    sweep: int
    config: RunConfig
    label: Label
    model: ModelIdentity

    @property
    def title(self) -> str:
        """What it is called in a line."""
        if not self.config.rounding.quantizes:
            return self.label.method
        return " ".join(filter(None, (self.label.method, f"bits={self.config.format.bits}", self.label.variant)))

    @property
    def basis(self) -> str:
        """Equal for runs that share a model in full precision and its scores."""
        return json.dumps([asdict(self.model), asdict(self.config.evaluation), self.config.dtype], sort_keys=True)

    @property
    def calibration(self) -> str | None:
        """Equal for runs that share calibration tokens; None for a run that needs none."""
        if not self.config.variant().needs_calibration:
            return None
        return self.basis + json.dumps([asdict(self.config.calibration), self.config.seed], sort_keys=True)


def expected_runs(study: Study, overrides: Sequence[str] = ()) -> list[Expected]:
    """Every run of the study once, in its order; ``overrides`` go to every run.

    Raises:
        InputError: a sweep that cannot be composed, or a model that is not there.
    """
    found: dict[str, Expected] = {}
    models: dict[str, ModelIdentity] = {}
    for number, sweep in enumerate(study.sweeps):
        for config, label in compose_jobs([*sweep, *overrides]):
            key = repr(config.model)
            if key not in models:
                models[key] = identify(config.model)
            identifier = run_id(determinants(config, label, models[key], pick_device(config.device).type))
            found.setdefault(identifier, Expected(identifier, number, config, label, models[key]))
    return list(found.values())


@dataclass(frozen=True)
class Estimate:
    """What runs will take, from earlier records of the same method and model. unknown: runs that have none."""

    seconds: float
    unknown: int
    peak: dict[str, int]


def estimate(missing: Sequence[Expected], earlier: "pd.DataFrame | None") -> Estimate:
    """Seconds are medians of all stages; the peak is the largest seen of each place (host, device), in bytes."""
    total, unknown, peak = 0.0, 0, dict[str, int]()
    for (method, model), count in _counted(missing).items():
        rows = None if earlier is None else earlier[(earlier["method"] == method) & (earlier["model"] == model)]
        if rows is None or rows.empty:
            unknown += count
            continue
        total += count * statistics.median(map(total_seconds, rows["seconds"]))
        for text in rows["peak_memory"]:
            for places in json.loads(text).values():
                for place, size in places.items():
                    peak[place] = max(peak.get(place, 0), size)
    return Estimate(total, unknown, peak)


def _counted(runs: Sequence[Expected]) -> dict[tuple[str, str], int]:
    counts: dict[tuple[str, str], int] = {}
    for run in runs:
        key = run.label.method, run.model.name
        counts[key] = counts.get(key, 0) + 1
    return counts
