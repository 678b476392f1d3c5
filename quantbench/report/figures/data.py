"""From stored rows to the points of a figure: selected as a table's cells are, with the interval that answers it."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantbench.errors import InputError
from quantbench.report.caption import label
from quantbench.report.cells import baselines
from quantbench.report.selection import (
    Query,
    Row,
    check_comparable,
    check_statistics,
    is_reference,
    key_of,
    select,
    value_of,
    values_text,
)

if TYPE_CHECKING:
    import pandas as pd

Bounds = tuple[float, float]

_NAMES = {
    "perplexity": "Perplexity",
    "perplexity_ratio": "Perplexity ratio",
    "kl_divergence": "KL divergence (nats)",
    "top1_agreement": "Top-1 agreement",
    "acc": "Accuracy",
    "acc_norm": "Normalized accuracy",
    "flips": "Changed answers",
    "weight_error": "Relative error of the weights",
    "output_error": "Relative error of the outputs",
    "train_loss": "Training loss (nats)",
    "bits_per_weight": "Bits per weight",
    "model_bytes": "Model size (MB)",
    "quantized_bytes": "Quantized weights (MB)",
    "num_samples": "Calibration samples",
    "seqlen": "Calibration sequence length",
    "bits": "Bits",
    "model.hidden_size": "Hidden size",
}
_MEGABYTE = 1e6
_NORMAL_95 = 1.96


@dataclass(frozen=True)
class Point:
    """A run in the plane: where it stands, the ends of its 95 % intervals where known, and the series it is of."""

    x: float
    y: float
    series: str
    y_bounds: Bounds | None = None
    x_bounds: Bounds | None = None


@dataclass(frozen=True)
class Selection:
    """Rows of one metric: the quantized runs, full precision's value where all runs share it, and a paired scale.

    paired: rows of the ratio to full precision by run and task; it holds no uncertainty of the text itself.
    """

    rows: Sequence[Row]
    query: Query
    reference: float | None
    paired: Mapping[tuple[str, str], Row]

    @property
    def metric(self) -> str:
        return str(self.rows[0]["metric"])

    def bounds(self, row: Row) -> Bounds | None:
        """95 % interval of a row: for perplexity that of its ratio to full precision, put on perplexity's scale."""
        ratio = self.paired.get((row["run_id"], row["task"]))
        if ratio is not None and ratio["ci_low"] is not None and row["baseline"] is not None:
            return row["baseline"] * ratio["ci_low"], row["baseline"] * ratio["ci_high"]
        return own_bounds(row)

    @property
    def interval_name(self) -> str:
        """What the bars of ``bounds`` are."""
        paired = "95 % intervals of the ratio to full precision, on perplexity's scale"
        return paired if self.paired else "95 % intervals"

    def series(self, row: Row) -> str:
        """The name of a row's series."""
        return label(self.query.rows, key_of(row, self.query.rows)) or "none"


def own_bounds(row: Row) -> Bounds | None:
    """The row's own 95 % interval, from its standard error where only that was recorded."""
    if row["ci_low"] is not None and row["ci_high"] is not None:
        return row["ci_low"], row["ci_high"]
    if row["stderr"] is not None:
        return row["value"] - _NORMAL_95 * row["stderr"], row["value"] + _NORMAL_95 * row["stderr"]
    return None


def selected(frame: "pd.DataFrame", query: Query) -> Selection:
    """The quantized runs that a query asks for, checked to be comparable as a table's would be.

    Raises:
        InputError: nothing selected, only full precision, or runs that cannot stand in one figure.
    """
    rows = select(frame, query)
    check_comparable(rows, query)
    check_statistics(rows, query)
    quantized = [row for row in rows if not is_reference(row)]
    if not quantized:
        raise InputError("only full precision is selected: a figure needs quantized runs")
    references = {row["value"] for row in [row for row in rows if is_reference(row)] or baselines(rows)}
    paired: dict[tuple[str, str], Row] = {}
    if query.metrics == ("perplexity",) and "perplexity_ratio" in set(frame["metric"]):
        wanted = {row["run_id"] for row in quantized}
        ratios = select(frame[frame["run_id"].isin(wanted)], Query((), (), ("perplexity_ratio",)))
        paired = {(row["run_id"], row["task"]): row for row in ratios}
    return Selection(quantized, query, references.pop() if len(references) == 1 else None, paired)


def points(
    selection: Selection, x: Callable[[Row], float | None], limits: Bounds | None
) -> tuple[list[Point], list[str]]:
    """A point for each run that has both coordinates, in the order of the series' names, and what was left out.

    Raises:
        InputError: no point is left.
    """
    found, lost = [], []
    for row in sorted(selection.rows, key=lambda row: (selection.series(row), row["run_id"])):
        place = x(row)
        if place is None or not math.isfinite(place) or not math.isfinite(row["value"]):
            lost.append(selection.series(row))
            continue
        found.append(Point(place, row["value"], selection.series(row), finite(selection.bounds(row))))
    if not found:
        raise InputError("no selected run has a finite value and a place on the x axis")
    notes = [f"left out, no finite value or place: {', '.join(sorted(set(lost)))}"] if lost else []
    found, outside = within(found, limits)
    return found, [*notes, *outside]


def within(found: Sequence[Point], limits: Bounds | None) -> tuple[list[Point], list[str]]:
    """The points whose y lies within the limits, and a note of those that do not.

    Raises:
        InputError: none does.
    """
    if limits is None:
        return list(found), []
    inside = [point for point in found if limits[0] <= point.y <= limits[1]]
    if not inside:
        raise InputError(f"--limits {limits[0]:g},{limits[1]:g}: no selected run lies there")
    outside = sorted({point.series for point in found if point not in inside})
    return inside, [f"outside the limits: {', '.join(outside)}"] if outside else []


def finite(bounds: Bounds | None) -> Bounds | None:
    """The interval if both ends are numbers."""
    return bounds if bounds is not None and all(map(math.isfinite, bounds)) else None


def numeric(rows: Sequence[Row], field: str) -> Callable[[Row], float | None]:
    """A field as an axis; bytes in megabytes.

    Raises:
        InputError: a field whose values are not numbers.
    """
    values = [value_of(row, field) for row in rows]
    if all(value is None for value in values):
        raise InputError(f"no selected run has {field}")
    if not all(value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in values):
        raise InputError(f"{field} is no number and cannot be an axis: {values_text(rows, field)}")
    unit = _MEGABYTE if field.endswith("_bytes") else 1.0

    def place(row: Row) -> float | None:
        value = value_of(row, field)
        return None if value is None else float(value) / unit

    return place


def quantize_seconds(row: Row) -> float | None:
    """Wall-clock seconds from the calibration text to the quantized model; None where it was not timed."""
    stages = json.loads(row["seconds"])
    return stages["quantize"] + stages.get("calibration", 0.0) if "quantize" in stages else None


def axis_name(field: str) -> str:
    """A metric or field as an axis calls it."""
    return _NAMES.get(field, field)


def metric_label(selection: Selection) -> str:
    """The y axis: the metric and which way is better."""
    arrow = "\u2191" if selection.rows[0]["higher_is_better"] else "\u2193"
    return f"{axis_name(selection.metric)} {arrow}"
