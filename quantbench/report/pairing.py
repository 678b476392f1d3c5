"""Stored runs beside each other on the windows and items that they have in common."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from quantbench.errors import InputError
from quantbench.report.selection import Row, in_windows, is_diagnostic
from quantbench.statistics import (
    AnswerChanges,
    PairedDifference,
    SeedStudy,
    across_seeds,
    answer_changes,
    paired_difference,
)
from quantbench.statistics.difference import aligned

if TYPE_CHECKING:
    import pandas as pd

    from quantbench.store.parquet import Store

_LOGARITHMIC = ("perplexity", "perplexity_ratio")  # their samples are mean NLL, so differences are ratios

_Aligned = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]  # of a, of b, weights


@dataclass(frozen=True)
class Comparison:
    """Run ``a`` against run ``b`` on one metric of one task.

    value_a, value_b: as stored, the mean over calibration seeds where there are several. estimate, low, high: a - b,
    for perplexity of its logarithm (``is_ratio``). p_value: None where a run broke or has one sample. changes: where
    values are right or wrong; study: where several seeds were compared.
    """

    metric: str
    task: str
    higher_is_better: bool
    value_a: float
    value_b: float
    estimate: float
    low: float | None
    high: float | None
    p_value: float | None
    count: int
    changes: AnswerChanges | None = None
    study: SeedStudy | None = None

    @property
    def is_ratio(self) -> bool:
        return self.metric in _LOGARITHMIC

    @property
    def a_is_better(self) -> bool:
        return self.estimate > 0 if self.higher_is_better else self.estimate < 0


class Pairing:
    """Comparisons of rows of one store; a run's samples are read once."""

    def __init__(self, store: "Store") -> None:
        self._read = lru_cache(maxsize=None)(store.samples)

    def samples(self, row: Row) -> "pd.DataFrame":
        """The samples behind a row, columns key, value, weight and baseline; empty for a metric that keeps none.

        Raises:
            InputError: the run's samples are missing or damaged.
        """
        metric = "perplexity" if row["metric"] in _LOGARITHMIC else row["metric"]
        frame = self._read(row["run_id"])
        return frame[(frame["metric"] == metric) & (frame["task"] == row["task"])]

    def compare(self, a: Sequence[Row], b: Sequence[Row]) -> Comparison | None:
        """The same metric and task of two configurations, one row for each calibration seed, in the order of the seeds.

        A configuration with a single row is held against every row of the other. None where no samples were kept, and
        for errors of layers, which are no sample.

        Raises:
            InputError: other samples, or two numbers of seeds.
        """
        if len(a) != len(b) and 1 not in (len(a), len(b)):
            raise InputError(f"{len(a)} seeds beside {len(b)}: give the same seeds on both sides, or one run")
        if is_diagnostic(a[0]):
            return None
        many = max(len(a), len(b))
        pairs = list(zip(_repeated(a, many), _repeated(b, many), strict=True))
        if any(self.samples(row).empty for pair in pairs for row in pair):
            return None
        values = [self._aligned(left, right) for left, right in pairs]
        value_a, value_b = (float(np.mean([row["value"] for row in side])) for side in (a, b))
        return _comparison(a[0], value_a, value_b, values)

    def _aligned(self, a: Row, b: Row) -> _Aligned:
        try:
            return aligned(self.samples(a), self.samples(b))
        except ValueError as error:
            raise InputError(f"{a['run_id']} and {b['run_id']}, {a['metric']} on {a['task']}: {error}") from error

    def changes_from_full_precision(self, row: Row) -> AnswerChanges | None:
        """How many of full precision's answers the run changed, and which way; None where that is not recorded."""
        frame = self.samples(row)
        if frame.empty or frame["baseline"].isna().any() or not _are_answers(frame["value"].to_numpy()):
            return None
        return answer_changes(frame["value"], frame["baseline"])


def _comparison(row: Row, value_a: float, value_b: float, values: list[_Aligned]) -> Comparison:
    serial = in_windows(row)
    found: PairedDifference | AnswerChanges | SeedStudy
    if len(values) > 1 and np.isfinite([side for pair in values for side in pair[:2]]).all():
        weighted = [(a - b) * weights / weights.mean() for a, b, weights in values]
        found = across_seeds(weighted, serial=serial)
    elif not serial and _are_answers(np.concatenate(values[0][:2])):
        found = answer_changes(*values[0][:2])
    else:
        found = paired_difference(*values[0], serial=serial)
    return Comparison(
        metric=row["metric"],
        task=row["task"],
        higher_is_better=row["higher_is_better"],
        value_a=value_a,
        value_b=value_b,
        estimate=found.estimate,
        low=found.low,
        high=found.high,
        p_value=found.p_value,
        count=len(values[0][0]),
        changes=found if isinstance(found, AnswerChanges) else None,
        study=found if isinstance(found, SeedStudy) else None,
    )


def _repeated(rows: Sequence[Row], many: int) -> Sequence[Row]:
    return list(rows) * many if len(rows) == 1 else rows


def _are_answers(values: NDArray[np.float64]) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())
