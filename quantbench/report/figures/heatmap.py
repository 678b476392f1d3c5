"""Two fields crossed, a colour and a number in each cell."""

import argparse
import math
from typing import TYPE_CHECKING

from quantbench.errors import InputError
from quantbench.report.caption import label
from quantbench.report.cells import Cells, arrange
from quantbench.report.figures.data import metric_label, selected
from quantbench.report.figures.drawing import Drawing, describe
from quantbench.report.figures.options import add_metric, add_scale, query
from quantbench.report.figures.style import is_log, new_figure, plain, slant
from quantbench.report.numbers import rounded, text
from quantbench.report.selection import Fields, Key, Query, Row, is_reference

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.image import AxesImage

_DARK = 0.4  # luminance below which a cell's number is white
_FRAME = "#D55E00"
_MARGIN, _LOWEST, _CELL_HEIGHT, _SLANTED_CHARACTER = 0.5, 1.1, 0.3, 0.04  # inches


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the figure."""
    add_metric(parser, "perplexity_ratio")
    add_scale(parser)
    parser.add_argument("--rows", default="transform", metavar="FIELDS", help="fields of the rows (%(default)s)")
    parser.add_argument("--cols", default="rounding", metavar="FIELDS", help="fields of the columns (%(default)s)")


def draw(frame: "pd.DataFrame", arguments: argparse.Namespace) -> Drawing:
    """Cells as in a table; missing ones stay empty, and the best has a frame."""
    selection = selected(frame, query(arguments, arguments.rows, arguments.cols, options="--rows or --cols"))
    cells = _quantized_only(arrange(selection.rows, selection.query))
    values = _values(cells)
    figure, axes = new_figure(arguments.width, arguments.height or _height(cells, selection.query))
    image = axes.imshow(values, cmap="cividis_r", norm=_norm(values, log=arguments.log), aspect="auto")
    _label_axes(axes, cells, selection.query)
    for (row_key, col_key), row in cells.cells.items():
        _write_cell(axes, image, cells.col_keys.index(col_key), cells.row_keys.index(row_key), row)
    _frame_best(axes, values, higher_is_better=selection.rows[0]["higher_is_better"])
    bar = figure.colorbar(image, ax=axes, fraction=0.06, pad=0.02)
    bar.set_label(metric_label(selection))
    title, notes = describe(selection.rows, selection.query)
    return Drawing(figure, title, notes)


def _quantized_only(cells: Cells) -> Cells:
    """Without full precision, which a table repeats along its columns and a colour scale must not hold."""
    found = {keys: row for keys, row in cells.cells.items() if not is_reference(row)}
    return Cells(
        row_keys=tuple(key for key in cells.row_keys if any(key == row_key for row_key, _ in found)),
        col_keys=tuple(key for key in cells.col_keys if any(key == col_key for _, col_key in found)),
        cells=found,
    )


def _values(cells: Cells) -> "np.ndarray":
    """Values [rows, columns]; NaN where there is no run, or none with a finite value."""
    import numpy as np

    values = np.full((len(cells.row_keys), len(cells.col_keys)), np.nan)
    for (row_key, col_key), row in cells.cells.items():
        if math.isfinite(row["value"]):
            values[cells.row_keys.index(row_key), cells.col_keys.index(col_key)] = row["value"]
    if np.isnan(values).all():
        raise InputError("no selected run has a finite value")
    return values


def _norm(values: "np.ndarray", *, log: bool | None) -> "Normalize":
    import numpy as np
    from matplotlib.colors import LogNorm, Normalize

    present = values[np.isfinite(values)]
    scale = LogNorm if is_log(present.tolist(), log=log) else Normalize
    return scale(vmin=float(present.min()), vmax=float(present.max()))


def _height(cells: Cells, query: Query) -> float:
    """Inches: the rows, or what the colour bar's label takes, and below them the columns' names."""
    columns = [_name(query.cols, key) for key in cells.col_keys]
    below = _SLANTED_CHARACTER * max(map(len, columns)) if slant(columns) else 0.0
    return _MARGIN + max(_LOWEST, _CELL_HEIGHT * len(cells.row_keys)) + below


def _label_axes(axes: "Axes", cells: Cells, query: Query) -> None:
    columns = [_name(query.cols, key) for key in cells.col_keys]
    axes.set_xticks(range(len(columns)), columns, **slant(columns))
    axes.set_yticks(range(len(cells.row_keys)), [_name(query.rows, key) for key in cells.row_keys])
    axes.set_xlabel(plain(", ".join(query.cols)))
    axes.set_ylabel(plain(", ".join(query.rows)))
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _name(fields: Fields, key: Key) -> str:
    """A key beside an axis that names its fields: of one field the value alone."""
    return plain(text(key[0]) if len(fields) == 1 else label(fields, key))


def _write_cell(axes: "Axes", image: "AxesImage", column: int, line: int, row: Row) -> None:
    number = rounded(row["value"], low=row["ci_low"], high=row["ci_high"], stderr=row["stderr"])
    red, green, blue, _ = image.cmap(image.norm(row["value"]))
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    axes.text(column, line, number, ha="center", va="center", color="white" if luminance < _DARK else "black")


def _frame_best(axes: "Axes", values: "np.ndarray", *, higher_is_better: bool) -> None:
    import numpy as np
    from matplotlib.patches import Rectangle

    best = np.nanargmax(values) if higher_is_better else np.nanargmin(values)
    line, column = np.unravel_index(best, values.shape)
    axes.add_patch(Rectangle((column - 0.5, line - 0.5), 1, 1, fill=False, edgecolor=_FRAME, linewidth=1.5))
