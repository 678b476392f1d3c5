"""The error of single layers against depth: a panel for each kind of linear, a line for each method."""

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from quantbench.errors import InputError
from quantbench.layers import LAYER_METRICS, block_curves
from quantbench.report.cells import arrange
from quantbench.report.figures.data import Point, Selection, metric_label, selected
from quantbench.report.figures.draw import ordered
from quantbench.report.figures.drawing import Drawing, describe
from quantbench.report.figures.options import add_scale, add_series, query
from quantbench.report.figures.style import (
    SeriesStyle,
    add_legend,
    new_panels,
    plain,
    scale_axis,
    series_styles,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from quantbench.report.figures.draw import Handle

_MOST_KINDS = 24


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the figure."""
    parser.add_argument("--metric", default=LAYER_METRICS[0], choices=LAYER_METRICS, help="(%(default)s)")
    parser.set_defaults(task=None)
    add_series(parser)
    add_scale(parser)


def draw(frame: "pd.DataFrame", arguments: argparse.Namespace) -> Drawing:
    """Every block's error, experts of a block averaged; two runs of one series are refused as in a table's cell."""
    if arguments.metric not in set(frame["metric"]):
        raise InputError(
            f"no stored run has {arguments.metric}: older records lack it (force=true runs them again), and the error "
            "of outputs is known where a method looks at calibration data"
        )
    selection = selected(frame, query(arguments, arguments.by, ""))
    arrange(selection.rows, selection.query)
    panels = _panels(selection, arguments.results)
    found = [point for points in panels.values() for point in points]
    styles = series_styles(ordered(found), by=arguments.by)
    size = arguments.width, arguments.height
    figure, grid = new_panels(len(panels), *size, x_label="Block", y_label=metric_label(selection))
    handles: dict[str, Handle] = {}
    for axes, (kind, points) in zip(grid, panels.items(), strict=True):
        axes.set_title(plain(kind), fontsize="medium")
        for name in ordered(points):
            handles[name] = _draw_curve(axes, [point for point in points if point.series == name], styles[name])
    values = [point.y for point in found]
    scale_axis(grid[0].yaxis, values, log=min(values) > 0 if arguments.log is None else arguments.log)
    add_legend(figure, [handles[name] for name in styles], grow=arguments.height is None)
    return Drawing(figure, *describe(selection.rows, selection.query))


def _panels(selection: Selection, results: str) -> Mapping[str, Sequence[Point]]:
    """The points of each kind of linear, named by the last part of its name where that is enough.

    Raises:
        InputError: no samples, or more kinds than a figure holds.
    """
    from quantbench.store.parquet import Store

    if not Path(results).is_dir():
        raise InputError(f"{results} holds no samples, which this figure is drawn from: give the results folder")
    panels: dict[str, list[Point]] = {}
    for row in sorted(selection.rows, key=lambda row: (selection.series(row), row["run_id"])):
        samples = Store(results).samples(row["run_id"])
        own = samples[samples["metric"] == selection.metric].sort_values("index")
        for kind, curve in block_curves(own["key"], own["value"], own["weight"]).items():
            points = [Point(block, value, selection.series(row)) for block, value in curve.items()]
            panels.setdefault(kind, []).extend(point for point in points if math.isfinite(point.y))
    if not 0 < len(panels) <= _MOST_KINDS:
        raise InputError(f"{len(panels)} kinds of linears: a figure holds 1 to {_MOST_KINDS}")
    short = [kind.rpartition(".")[2] for kind in panels]
    return {last if short.count(last) == 1 else kind: panels[kind] for last, kind in zip(short, panels, strict=True)}


def _draw_curve(axes: "Axes", points: Sequence[Point], style: SeriesStyle) -> "Handle":
    (line,) = axes.plot(
        [point.x for point in points],
        [point.y for point in points],
        color=style.color,
        marker=style.marker,
        markersize=2.2,
        linestyle=style.line,
        label=plain(points[0].series),
    )
    return line
