"""How figures look: colours, markers and lines that can be told apart, in type that a paper's column can carry."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quantbench.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

    from quantbench.report.figures.draw import Handle

# Okabe and Ito, Color Universal Design (2008), without the yellow that white paper swallows.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX<>h"
LINES = ("-", "--", "-.", ":")
GREY = "#767676"
FULL_PRECISION_LINE: dict[str, Any] = {"color": GREY, "linestyle": (0, (1, 1.5)), "linewidth": 1.0}
MOST_SERIES = 14

COLUMN_WIDTH = 3.3  # inches: a column of a two-column paper
_HEIGHT = 2.4
_LEGEND_LINE = 0.15
_PANEL = (1.5, 1.0)  # inches, the least width and the height of one of several panels
_AROUND_PANELS = 0.4
_LOG_FROM = 4.0  # largest over smallest value from which an axis is logarithmic
_DENSE_UP_TO = 300.0  # largest over smallest value up to which a logarithmic axis has ticks at 2 and 5
_SHORTEST, _LONGEST = 1e-3, 1e5  # between these a tick is written out
_LEVEL_CHARACTERS = 34  # of all labels along a column-wide axis together
_SETTINGS: Any = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same bytes on every machine
    "font.size": 7,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.4,
    "lines.linewidth": 1.0,
    "lines.markersize": 4,
    "errorbar.capsize": 1.5,
    "pdf.fonttype": 42,  # TrueType, which journals ask for
    "svg.fonttype": "path",
    "svg.hashsalt": "quantbench",
    "figure.constrained_layout.use": True,
    "savefig.dpi": 300,
}


@dataclass(frozen=True)
class SeriesStyle:
    """Colour, marker and line of a series; each alone tells most series apart."""

    color: str
    marker: str
    line: str


@contextmanager
def paper_style() -> Iterator[None]:
    """Settings of every figure, and a canvas that needs no display."""
    import matplotlib

    with matplotlib.rc_context({"backend": "agg", **_SETTINGS}):
        yield


def new_figure(width: float, height: float | None) -> tuple["Figure", "Axes"]:
    """An empty figure (inches) with one pair of axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height or _HEIGHT), layout="constrained")
    return figure, figure.subplots()


def new_panels(
    count: int, width: float, height: float | None, *, x_label: str, y_label: str
) -> tuple["Figure", list["Axes"]]:
    """An empty figure (inches) with ``count`` pairs of axes, side by side as far as they fit, on common scales."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    columns = max(1, min(count, int(width / _PANEL[0])))
    rows = math.ceil(count / columns)
    height = height or max(_HEIGHT, _AROUND_PANELS + _PANEL[1] * rows)
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten().tolist()
    for axes in grid[count:]:
        axes.remove()
    for axes in grid[max(0, count - columns) : count]:
        axes.tick_params(labelbottom=True)  # the last of its column
        axes.set_xlabel(x_label)
    figure.supylabel(y_label, fontsize=_SETTINGS["axes.labelsize"])
    grid[0].xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    return figure, grid[:count]


def series_styles(labels: Sequence[str], *, by: str) -> dict[str, SeriesStyle]:
    """A style for each series, in order.

    Raises:
        InputError: more series than a reader can tell apart.
    """
    if len(labels) > MOST_SERIES:
        raise InputError(
            f"--by {by} gives {len(labels)} series and at most {MOST_SERIES} can be told apart; choose with --where"
        )
    return {
        name: SeriesStyle(PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)], LINES[i % len(LINES)])
        for i, name in enumerate(labels)
    }


def add_legend(figure: "Figure", handles: "Sequence[Handle]", *, grow: bool) -> None:
    """A legend below the axes in as many columns as fit; ``grow``: the figure gets the height that it takes."""
    if not handles:
        return
    # A legend outside the axes is measured alone: the layout would otherwise shrink the axes for every attempt.
    for columns in range(min(len(handles), 4), 0, -1):
        legend = figure.legend(
            handles=list(handles), loc="outside lower center", ncols=columns, columnspacing=1.2, handlelength=2.2
        )
        if columns == 1 or legend.get_window_extent().width <= 0.98 * figure.bbox.width:
            break
        legend.remove()
    if grow:
        figure.set_figheight(figure.get_figheight() + _LEGEND_LINE * math.ceil(len(handles) / columns))


def is_log(values: Sequence[float], *, log: bool | None) -> bool:
    """Whether values go on a logarithmic scale: where asked for or, by default, positive values over a factor of four.

    Raises:
        InputError: asked for, but a value is not positive.
    """
    low, high = min(values), max(values)
    if log and low <= 0:
        raise InputError(f"--log needs positive values; the smallest is {low:g}")
    return log if log is not None else low > 0 and high / low > _LOG_FROM


def scale_axis(axis: "Axis", values: Sequence[float], *, log: bool | None) -> None:
    """A logarithmic or a linear axis for these values (``is_log``)."""
    if is_log(values, log=log):
        _logarithmic(axis, min(values), max(values))


def _logarithmic(axis: "Axis", low: float, high: float) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    short = low >= _SHORTEST and high < _LONGEST
    getattr(axis.axes, f"set_{axis.axis_name}scale")("log")  # type: ignore[attr-defined]
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < _DENSE_UP_TO else (1,), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if short else _power(value)))
    axis.set_minor_formatter(NullFormatter())


def _power(value: float) -> str:
    """A tick of a logarithmic axis whose numbers are too long to write out: 5 x 10^6."""
    exponent = math.floor(math.log10(value) + 1e-9)
    factor = value / 10**exponent
    return rf"$10^{{{exponent}}}$" if abs(factor - 1) < 1e-6 else rf"${factor:g}\times10^{{{exponent}}}$"


def plain(label: str) -> str:
    """Text that matplotlib prints as it is: no part of it is a formula."""
    return label.replace("$", r"\$")


def slant(labels: Sequence[str]) -> dict[str, Any]:
    """How the labels of columns are set: slanted where side by side they would touch."""
    crowded = max(map(len, labels)) * len(labels) > _LEVEL_CHARACTERS
    return {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
