"""How every kind of figure begins and ends: axes that suit the points; labels, legend and the words that go with it."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from quantbench.errors import InputError
from quantbench.report import caption
from quantbench.report.cells import Cells
from quantbench.report.figures.data import Point, Selection, metric_label
from quantbench.report.figures.style import add_legend, new_figure, scale_axis
from quantbench.report.selection import Key, Query, Row, key_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from quantbench.report.figures.draw import Handle


@dataclass(frozen=True)
class Drawing:
    """A figure with its caption and with what a reader must know about it."""

    figure: "Figure"
    caption: str
    notes: Sequence[str] = field(default_factory=tuple)


def begin(found: Sequence[Point], arguments: argparse.Namespace) -> "tuple[Figure, Axes]":
    """A figure whose y axis suits the points.

    Raises:
        InputError: a logarithmic axis of values or limits that have no logarithm.
    """
    figure, axes = new_figure(arguments.width, arguments.height)
    scale_axis(axes.yaxis, [point.y for point in found], log=arguments.log)
    if arguments.limits is not None:
        low, high = arguments.limits
        if axes.get_yscale() == "log" and low <= 0:
            raise InputError(f"--limits {low:g},{high:g}: a logarithmic axis has no {low:g}; add --linear")
        axes.set_ylim(low, high)
    return figure, axes


def finish(
    figure: "Figure",
    handles: "Sequence[Handle]",
    selection: Selection,
    found: Sequence[Point],
    arguments: argparse.Namespace,
    *,
    x_label: str,
    notes: Sequence[str],
    y_label: str | None = None,
    bars: str | None = None,
) -> Drawing:
    """Labels, legend, caption and notes. y_label, bars: what y and the bars are (default: the metric, its interval)."""
    (axes,) = figure.axes
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label or metric_label(selection))
    add_legend(figure, handles, grow=arguments.height is None)
    title, settings = describe(selection.rows, selection.query)
    if any(point.y_bounds for point in found):
        title += f"; bars: {bars or selection.interval_name}"
    return Drawing(figure, title, [*settings, *notes])


def describe(rows: Sequence[Row], query: Query) -> tuple[str, list[str]]:
    """Caption and notes of rows, in the words of a table that would show them."""
    if len({(key_of(row, query.rows), key_of(row, query.cols)) for row in rows}) < len(rows):
        query = replace(query, cols=(*query.cols, "run_id"))  # a figure may show runs that a table has no cells for
    cells: dict[tuple[Key, Key], Row] = {(key_of(row, query.rows), key_of(row, query.cols)): row for row in rows}
    found = Cells(row_keys=(), col_keys=(), cells=cells)
    return caption.title(found, query), caption.notes(found, query)
