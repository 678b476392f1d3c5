"""Accuracy against KL divergence: whether a model that stays close to full precision also answers as well."""

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from quantbench.errors import InputError
from quantbench.report.figures.data import (
    Point,
    Selection,
    axis_name,
    finite,
    metric_label,
    own_bounds,
    selected,
    within,
)
from quantbench.report.figures.draw import draw_reference, draw_series, ordered
from quantbench.report.figures.drawing import Drawing, begin, finish
from quantbench.report.figures.options import add_limits, add_metric, add_scale, add_series, query
from quantbench.report.figures.style import scale_axis, series_styles
from quantbench.report.selection import Row

if TYPE_CHECKING:
    import pandas as pd


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the figure."""
    add_metric(parser, "acc")
    add_series(parser)
    add_scale(parser)
    add_limits(parser)
    parser.add_argument("--x", default="kl_divergence", metavar="NAME", help="metric of the x axis (%(default)s)")


def draw(frame: "pd.DataFrame", arguments: argparse.Namespace) -> Drawing:
    """A point a run, with both intervals; without ``--task`` the mean over all tasks that have the metric."""
    tasks = query(arguments, arguments.by, "" if arguments.task else "task")
    across = selected(frame, replace(tasks, cols=(), metrics=(arguments.x,), task=None))
    along = selected(frame, tasks)
    answers, measured = _mean_over_tasks(along.rows)
    found, lost = _paired(answers, across)
    found, outside = within(found, arguments.limits)
    names = ordered(found)
    styles = series_styles(names, by=arguments.by)
    figure, axes = begin(found, arguments)
    scale_axis(axes.xaxis, [point.x for point in found], log=None)
    references = {answer["baseline"] for answer in answers.values()}
    handles = draw_reference(axes, references.pop() if len(references) == 1 else None)
    handles += [
        draw_series(axes, [p for p in found if p.series == name], name, styles[name], connect=False) for name in names
    ]
    y_label = metric_label(along) + (f", mean of {len(measured)} tasks" if len(measured) > 1 else "")
    x_label, notes = axis_name(arguments.x), [f"on {', '.join(measured)}", *lost, *outside]
    return finish(figure, handles, along, found, arguments, x_label=x_label, y_label=y_label, notes=notes)


def _mean_over_tasks(rows: Sequence[Row]) -> tuple[dict[str, Row], tuple[str, ...]]:
    """By run: the mean over its tasks, whose items are independent; and the tasks.

    Raises:
        InputError: runs with different tasks, whose means say nothing about the methods.
    """
    runs: dict[str, list[Row]] = {}
    for row in rows:
        runs.setdefault(row["run_id"], []).append(row)
    kinds = {tuple(sorted(row["task"] for row in own)) for own in runs.values()}
    if len(kinds) > 1:
        given = " and ".join(sorted("+".join(kind) for kind in kinds)[:2])
        raise InputError(f"runs have different tasks ({given}): choose one with --task")
    return {name: _mean(own) for name, own in runs.items()}, next(iter(kinds))


def _mean(rows: Sequence[Row]) -> Row:
    count = len(rows)
    errors, baselines = [row["stderr"] for row in rows], [row["baseline"] for row in rows]
    interval: dict[str, float | None] = {}
    if count > 1:
        known = all(error is not None for error in errors)
        interval = {"ci_low": None, "ci_high": None}
        interval["stderr"] = math.sqrt(sum(error**2 for error in errors)) / count if known else None
    baseline = sum(baselines) / count if all(value is not None for value in baselines) else None
    return {**rows[0], **interval, "value": sum(row["value"] for row in rows) / count, "baseline": baseline}


def _paired(answers: Mapping[str, Row], across: Selection) -> tuple[list[Point], list[str]]:
    """Runs that have both metrics."""
    places = {row["run_id"]: row for row in across.rows}
    rows = sorted(answers.values(), key=lambda row: (across.series(row), row["run_id"]))
    found = [
        Point(
            x=places[row["run_id"]]["value"],
            y=row["value"],
            series=across.series(row),
            y_bounds=finite(own_bounds(row)),
            x_bounds=finite(own_bounds(places[row["run_id"]])),
        )
        for row in rows
        if row["run_id"] in places
    ]
    if not found:
        raise InputError(f"no run has both {rows[0]['metric']} and {across.metric}")
    missing = sorted({across.series(row) for row in rows if row["run_id"] not in places})
    return found, [f"left out, without {across.metric}: {', '.join(missing)}"] if missing else []
