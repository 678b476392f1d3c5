"""Degradation against nominal bits, a line for each method."""

import argparse
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from quantbench.report.cells import arrange
from quantbench.report.figures.data import axis_name, numeric, points, selected
from quantbench.report.figures.draw import draw_reference, draw_series, ordered
from quantbench.report.figures.drawing import Drawing, begin, finish
from quantbench.report.figures.options import add_limits, add_metric, add_scale, add_series, query
from quantbench.report.figures.style import series_styles

if TYPE_CHECKING:
    import pandas as pd

_SPREAD = 0.05  # of the distance between widths: bars at the same width stand side by side


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the figure."""
    add_metric(parser, "perplexity_ratio")
    add_series(parser)
    add_scale(parser)
    add_limits(parser)
    parser.add_argument("--x", default="bits", metavar="FIELD", help="numeric field of the x axis (%(default)s)")


def draw(frame: "pd.DataFrame", arguments: argparse.Namespace) -> Drawing:
    """One line a series over the widths; two runs at one place are refused as in a table's cell."""
    selection = selected(frame, query(arguments, arguments.by, arguments.x))
    arrange(selection.rows, selection.query)
    found, lost = points(selection, numeric(selection.rows, arguments.x), arguments.limits)
    names = ordered(found)
    styles = series_styles(names, by=arguments.by)
    figure, axes = begin(found, arguments)
    handles = draw_reference(axes, selection.reference)
    places = sorted({point.x for point in found})
    gap = min((b - a for a, b in pairwise(places)), default=1.0)
    for index, name in enumerate(names):
        shift = gap * _SPREAD * (index - (len(names) - 1) / 2)
        shifted = [replace(point, x=point.x + shift) for point in found if point.series == name]
        handles.append(draw_series(axes, shifted, name, styles[name], connect=True))
    axes.set_xticks(places, [f"{place:g}" for place in places])
    x_label = axis_name(arguments.x)
    return finish(figure, handles, selection, found, arguments, x_label=x_label, notes=lost)
