"""How much the result depends on the calibration: on its size, and on the seed that drew it."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from quantbench.report.cells import arrange
from quantbench.report.figures.data import Point, axis_name, numeric, points, selected
from quantbench.report.figures.draw import draw_reference, draw_series, draw_single_runs, ordered
from quantbench.report.figures.drawing import Drawing, begin, finish
from quantbench.report.figures.options import add_limits, add_metric, add_scale, add_series, query
from quantbench.report.figures.style import (
    PALETTE,
    SeriesStyle,
    is_log,
    plain,
    series_styles,
    slant,
)
from quantbench.statistics import weighted_mean

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from quantbench.report.figures.draw import Handle

_MEAN = SeriesStyle("#D55E00", "D", "none")
_OVER_SEEDS = "95 % t intervals of the mean over seeds"
_JITTER, _BESIDE = 0.3, 0.3  # of the distance between columns
_SEED = "seed"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the figure."""
    add_metric(parser, "perplexity")
    add_series(parser)
    add_scale(parser)
    add_limits(parser)
    parser.add_argument(
        "--x", default="num_samples", metavar="FIELD", help="num_samples (default), another number, or seed"
    )


def draw(frame: "pd.DataFrame", arguments: argparse.Namespace) -> Drawing:
    """A line over calibration sizes, or a column of seeds for each series; runs differ in nothing but these."""
    by_seed = arguments.x == _SEED
    selection = selected(frame, query(arguments, arguments.by, arguments.x))
    by_run = selection.query if by_seed else replace(selection.query, rows=(*selection.query.rows, _SEED))
    arrange(selection.rows, by_run)
    found, lost = points(selection, numeric(selection.rows, arguments.x), arguments.limits)
    figure, axes = begin(found, arguments)
    handles = draw_reference(axes, selection.reference)
    if by_seed:
        handles += _draw_seeds(axes, found)
    else:
        handles += _draw_sizes(axes, found, by=arguments.by)
    x_label = "" if by_seed else axis_name(arguments.x)
    places = {(point.series, point.x) for point in found}
    bars = _OVER_SEEDS if by_seed or len(places) < len(found) else None
    described = replace(selection, query=by_run)
    return finish(figure, handles, described, found, arguments, x_label=x_label, notes=lost, bars=bars)


def _draw_sizes(axes: "Axes", found: Sequence[Point], *, by: str) -> list["Handle"]:
    """Each series' mean over seeds at every size, the seeds themselves behind it."""
    names = ordered(found)
    styles = series_styles(names, by=by)
    sizes = sorted({point.x for point in found})
    if is_log(sizes, log=None):
        axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
    axes.minorticks_off()
    handles = []
    for name in names:
        own = [point for point in found if point.series == name]
        groups = [[point for point in own if point.x == size] for size in sizes]
        draw_single_runs(axes, [point for group in groups if len(group) > 1 for point in group], styles[name].color)
        means = [_mean(group) for group in groups if group]
        handles.append(draw_series(axes, means, name, styles[name], connect=True))
    return handles


def _draw_seeds(axes: "Axes", found: Sequence[Point]) -> list["Handle"]:
    """A column a series: every seed's value, and their mean with the interval of a new seed's expectation."""
    names = ordered(found)
    handles: list[Handle] = []
    for place, name in enumerate(names):
        own = [replace(point, y_bounds=None) for point in found if point.series == name]
        shifts = [(index - (len(own) - 1) / 2) / max(1, len(own)) * _JITTER for index in range(len(own))]
        moved = [replace(point, x=place + shift) for point, shift in zip(own, shifts, strict=True)]
        handles = [*draw_single_runs(axes, moved, PALETTE[0])]
        mean = replace(_mean(own), x=place + _BESIDE)
        handles.append(draw_series(axes, [mean], "mean over seeds", _MEAN, connect=False))
    axes.set_xticks(range(len(names)), list(map(plain, names)), **slant(names))
    axes.set_xlim(-0.5, len(names) - 0.5)
    return handles


def _mean(runs: Sequence[Point]) -> Point:
    """Runs that differ in their seed alone as one point with the t interval of their mean; one run keeps its own."""
    if len(runs) == 1:
        return runs[0]
    values = np.array([run.y for run in runs])
    interval = weighted_mean(values, np.ones(len(values)))
    assert interval.low is not None
    assert interval.high is not None
    return replace(runs[0], y=interval.value, y_bounds=(interval.low, interval.high))
