"""Quality against a price: true bits per weight, bytes, or seconds, with the Pareto front."""

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from quantbench.errors import InputError
from quantbench.report.figures.data import (
    Point,
    Selection,
    axis_name,
    numeric,
    points,
    quantize_seconds,
    selected,
)
from quantbench.report.figures.draw import (
    draw_front,
    draw_others,
    draw_reference,
    draw_series,
    ordered,
    pareto_front,
)
from quantbench.report.figures.drawing import Drawing, begin, finish
from quantbench.report.figures.options import add_limits, add_metric, add_scale, add_series, query
from quantbench.report.figures.style import MOST_SERIES, scale_axis, series_styles
from quantbench.report.selection import Row, values_text

if TYPE_CHECKING:
    import pandas as pd


def pareto_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the figure against size."""
    _shared(parser)
    parser.add_argument("--x", default="bits_per_weight", metavar="FIELD", help="price (%(default)s; model_bytes ...)")


def pareto(frame: "pd.DataFrame", arguments: argparse.Namespace) -> Drawing:
    """Quality against true bits per weight."""
    selection = selected(frame, query(arguments, arguments.by, arguments.x))
    return _draw(selection, numeric(selection.rows, arguments.x), axis_name(arguments.x), arguments)


def time_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the figure against time."""
    _shared(parser)


def time(frame: "pd.DataFrame", arguments: argparse.Namespace) -> Drawing:
    """Quality against the seconds that calibration and quantization took.

    Raises:
        InputError: runs of different devices, whose seconds say nothing about the methods.
    """
    selection = selected(frame, query(arguments, arguments.by, ""))
    devices = {row["device"] for row in selection.rows}
    if len(devices) > 1 and "device" not in selection.query.shown:
        raise InputError(
            f"this would mix device: {values_text(selection.rows, 'device')}; choose one "
            f"(--where device={min(devices)!r}) or show it (add device to --by)"
        )
    return _draw(selection, quantize_seconds, "Seconds to calibrate and quantize", arguments, log_x=None)


def _shared(parser: argparse.ArgumentParser) -> None:
    add_metric(parser, "perplexity")
    add_series(parser)
    add_scale(parser)
    add_limits(parser)


def _draw(
    selection: Selection,
    x: Callable[[Row], float | None],
    x_label: str,
    arguments: argparse.Namespace,
    *,
    log_x: bool | None = False,
) -> Drawing:
    found, lost = points(selection, x, arguments.limits)
    front = pareto_front(found, higher_is_better=selection.rows[0]["higher_is_better"])
    named, others = _named(found, front)
    styles = series_styles(named, by=arguments.by)
    figure, axes = begin(found, arguments)
    scale_axis(axes.xaxis, [point.x for point in found], log=log_x)
    handles = [draw_front(axes, front), *draw_reference(axes, selection.reference)]
    handles += [
        draw_series(axes, [p for p in found if p.series == name], name, styles[name], connect=False) for name in named
    ]
    if others:
        handles.append(draw_others(axes, others))
    return finish(figure, handles, selection, found, arguments, x_label=x_label, notes=lost)


def _named(found: Sequence[Point], front: Sequence[Point]) -> tuple[list[str], list[Point]]:
    """Series with a name and a colour, and the points of the rest: of too many, only those on the front are named."""
    names = ordered(found)
    if len(names) <= MOST_SERIES:
        return names, []
    best = ordered(front)
    return best, [point for point in found if point.series not in best]
