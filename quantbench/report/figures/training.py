"""The loss of training against its steps: a line for each run."""

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from quantbench.curves import TRAIN_LOSS
from quantbench.errors import InputError
from quantbench.report.cells import arrange
from quantbench.report.figures.data import Point, Selection, selected
from quantbench.report.figures.draw import ordered
from quantbench.report.figures.drawing import Drawing, begin, finish
from quantbench.report.figures.options import add_limits, add_scale, add_series, query
from quantbench.report.figures.style import plain, series_styles

if TYPE_CHECKING:
    import pandas as pd


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the figure."""
    parser.set_defaults(task=None, metric=TRAIN_LOSS)
    add_series(parser)
    add_scale(parser)
    add_limits(parser)


def draw(frame: "pd.DataFrame", arguments: argparse.Namespace) -> Drawing:
    """Every recorded point of every curve; two runs of one series are refused as in a table's cell."""
    if arguments.metric not in set(frame["metric"]):
        raise InputError(f"no stored run has {TRAIN_LOSS}: runs with a choice of training but none have it")
    selection = selected(frame, query(arguments, arguments.by, ""))
    arrange(selection.rows, selection.query)
    found = _curves(selection, arguments.results)
    names = ordered(found)
    styles = series_styles(names, by=arguments.by)
    figure, axes = begin(found, arguments)
    handles = []
    for name in names:
        curve = [point for point in found if point.series == name]
        x, y = [point.x for point in curve], [point.y for point in curve]
        style = styles[name]
        handles += axes.plot(x, y, color=style.color, linestyle=style.line, linewidth=0.8, label=plain(name))
    return finish(figure, handles, selection, found, arguments, x_label="Step", notes=[])


def _curves(selection: Selection, results: str) -> list[Point]:
    """The points of all curves, in order.

    Raises:
        InputError: no samples.
    """
    from quantbench.store.parquet import Store

    if not Path(results).is_dir():
        raise InputError(f"{results} holds no samples, which this figure is drawn from: give the results folder")
    found: list[Point] = []
    for row in sorted(selection.rows, key=lambda row: (selection.series(row), row["run_id"])):
        samples = Store(results).samples(row["run_id"])
        own = samples[samples["metric"] == selection.metric].sort_values("index")
        values = zip(own["key"], own["value"], strict=True)
        found += [Point(int(step), loss, selection.series(row)) for step, loss in values if math.isfinite(loss)]
    if not found:
        raise InputError("no selected run has kept its curve")
    return found
