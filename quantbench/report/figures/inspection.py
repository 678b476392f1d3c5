"""The figures of an inspection: kurtosis, weights on the code points, outlier channels, and what each linear costs."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from quantbench.layers import block_curves
from quantbench.report.figure import render
from quantbench.report.figures.style import (
    GREY,
    LINES,
    MARKERS,
    PALETTE,
    add_legend,
    new_figure,
    new_panels,
    paper_style,
    plain,
    scale_axis,
)
from quantbench.report.inspection import sensitivity_metric
from quantbench.store.inspection import (
    AFTER,
    BEFORE,
    CODE_BINS,
    CODE_RANGE,
    INPUT,
    OUTLIER_RATIOS,
    WEIGHT,
    InspectedRow,
    Inspection,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from quantbench.report.figures.draw import Handle

_WIDTH = 6.9  # inches: a paper's page
_MOST_POINTS = 16  # code points that are drawn
_GAUSSIAN = 3.0
_SERIES = {
    (WEIGHT, BEFORE): ("weights", PALETTE[0], "-", "o"),
    (WEIGHT, AFTER): ("weights, transformed", PALETTE[5], "--", "s"),
    (INPUT, BEFORE): ("inputs", PALETTE[1], "-", "^"),
    (INPUT, AFTER): ("inputs, transformed", PALETTE[4], "--", "D"),
}
_COSTS = {
    "kl": "KL divergence (nats)",
    "output_error": "Relative error of the outputs",
    "weight_error": "Relative error of the weights",
}


def draw_all(inspection: Inspection, formats: Sequence[str]) -> dict[str, bytes]:
    """File name -> content, of every figure that the inspection has the numbers for."""
    files: dict[str, bytes] = {}
    for name, draw in FIGURES.items():
        with paper_style():
            figure = draw(inspection)
        if figure is not None:
            files |= {f"{name}.{form}": render(figure, form) for form in formats}
    return files


def kurtosis(inspection: Inspection) -> "Figure":
    """Of weights and inputs over the blocks, before and after the transform; a panel for each kind of linear."""
    kinds = _kinds(inspection)
    figure, grid = new_panels(len(kinds), _WIDTH, None, x_label="Block", y_label="Kurtosis (Gaussian: 3)")
    handles: dict[str, Handle] = {}
    stages = (BEFORE, AFTER) if inspection.transformed else (BEFORE,)
    for (what, stage), (label, color, line, marker) in _SERIES.items():
        rows = inspection.select(what, stage)
        if stage not in stages:
            continue
        for axes, (kind, weights) in zip(grid, kinds.items(), strict=True):
            read = [rows.get(weight.name if what == WEIGHT else weight.site) for weight in weights]
            curve = _curve(weights, [None if row is None else row.kurtosis for row in read])
            style: dict[str, Any] = {"color": color, "linestyle": line, "marker": marker, "markersize": 2.2}
            (handles[label],) = axes.plot(list(curve), list(curve.values()), label=label, **style)
            axes.set_title(plain(kind), fontsize="medium")
            axes.axhline(_GAUSSIAN, color=GREY, linewidth=0.6, linestyle=":", zorder=1)
    scale_axis(grid[0].yaxis, _drawn(grid), log=None)
    add_legend(figure, list(handles.values()), grow=True)
    return figure


def weights(inspection: Inspection) -> "Figure | None":
    """Histogram of all weights of a kind on the axis of their code points; None where nothing is quantized."""
    kinds = {
        kind: quantized
        for kind, rows in _kinds(inspection).items()
        if (quantized := [row for row in rows if row.code_histogram])
    }
    if not kinds:
        return None
    figure, grid = new_panels(len(kinds), _WIDTH, None, x_label="Code range of the group", y_label="Density")
    edges = np.linspace(*CODE_RANGE, CODE_BINS + 1)
    handles: dict[str, Handle] = {}
    for axes, (kind, rows) in zip(grid, kinds.items(), strict=True):
        sizes = [row.rows * row.channels for row in rows]
        share = np.average([row.code_histogram for row in rows], axis=0, weights=sizes)
        handles["weights"] = axes.stairs(
            share / np.diff(edges), edges, fill=True, color=PALETTE[5], label="weights before rounding"
        )
        points = rows[0].code_points
        if len(points) <= _MOST_POINTS and all(len(row.code_points) == len(points) for row in rows):
            places = np.mean([row.code_points for row in rows], axis=0)
            style: dict[str, Any] = {"color": PALETTE[1], "linewidth": 0.6, "linestyle": "--"}
            handles["points"] = axes.vlines(
                places, 0, 1, transform=axes.get_xaxis_transform(), label="code points", **style
            )
        axes.set_title(plain(kind), fontsize="medium")
        axes.set_xlim(*CODE_RANGE)
    grid[0].set_xticks([0, 0.5, 1])
    add_legend(figure, list(handles.values()), grow=True)
    return figure


def outliers(inspection: Inspection) -> "Figure":
    """Channels of the inputs that stick out, as dots over the blocks, and the largest channel of each as a line."""
    sites = _sites(inspection)
    y_label = "Largest magnitude over median's"
    figure, grid = new_panels(len(sites), _WIDTH, None, x_label="Block", y_label=y_label)
    handles: dict[str, Handle] = {}
    for stage in (BEFORE, AFTER) if inspection.transformed else (BEFORE,):
        label, color, line, marker = _SERIES[INPUT, stage]
        rows = inspection.select(INPUT, stage)
        for axes, (kind, names) in zip(grid, sites.items(), strict=True):
            found = [rows[name] for name in names if name in rows]
            dots = [(row.block, ratio) for row in found for ratio in row.outlier_ratios]
            blocks, ratios = [block for block, _ in dots], [ratio for _, ratio in dots]
            axes.plot(blocks, ratios, color=color, marker=marker, markersize=1.8, linestyle="none")
            curve = _curve(found, [row.channel_ratio for row in found])
            (handles[label],) = axes.plot(list(curve), list(curve.values()), color=color, linestyle=line, label=label)
            axes.set_title(plain(kind), fontsize="medium")
    for axes in grid:
        for ratio in OUTLIER_RATIOS:
            axes.axhline(ratio, color=GREY, linewidth=0.6, linestyle=":", zorder=1)
    scale_axis(grid[0].yaxis, _drawn(grid), log=None)
    add_legend(figure, list(handles.values()), grow=True)
    return figure


def sensitivity(inspection: Inspection) -> "Figure | None":
    """What quantizing each linear alone costs, over the blocks; a line for each kind."""
    metric = sensitivity_metric(inspection)
    if metric is None:
        return None
    figure, axes = new_figure(_WIDTH / 2, None)
    handles: list[Handle] = []
    for index, (kind, rows) in enumerate(_kinds(inspection).items()):
        curve = _curve(rows, [getattr(row, metric) for row in rows])
        style: dict[str, Any] = {"color": PALETTE[index % len(PALETTE)], "linestyle": LINES[index % len(LINES)]}
        style |= {"marker": MARKERS[index % len(MARKERS)], "markersize": 2.5, "label": plain(kind)}
        handles += axes.plot(list(curve), list(curve.values()), **style)
    axes.set_xlabel("Block")
    axes.locator_params(axis="x", integer=True)
    axes.set_ylabel(_COSTS[metric])
    scale_axis(axes.yaxis, _drawn([axes]), log=None)
    add_legend(figure, handles, grow=True)
    return figure


FIGURES: Mapping[str, Callable[[Inspection], "Figure | None"]] = {
    "kurtosis": kurtosis,
    "weights": weights,
    "outliers": outliers,
    "sensitivity": sensitivity,
}


def _kinds(inspection: Inspection) -> dict[str, list[InspectedRow]]:
    """The weights after the transform by kind of linear, named by the last part of its name where that is enough."""
    kinds: dict[str, list[InspectedRow]] = {}
    for row in inspection.select(WEIGHT, AFTER).values():
        kinds.setdefault(row.kind, []).append(row)
    return _short(kinds)


def _sites(inspection: Inspection) -> dict[str, list[str]]:
    """Names of the inputs, by the kind of the first linear that reads them."""
    sites: dict[str, list[str]] = {}
    for row in inspection.select(INPUT, BEFORE).values():
        sites.setdefault(row.kind, []).append(row.name)
    return {f"into {kind}": names for kind, names in _short(sites).items()}


def _short(kinds: dict[str, Any]) -> dict[str, Any]:
    last = [kind.rpartition(".")[2] for kind in kinds]
    return {name if last.count(name) == 1 else kind: kinds[kind] for name, kind in zip(last, kinds, strict=True)}


def _curve(rows: Sequence[InspectedRow], values: Sequence[float | None]) -> dict[int, float]:
    """Values over the blocks, the mean where a block has several linears of a kind (experts)."""
    known = [(row.name, value) for row, value in zip(rows, values, strict=True) if value is not None]
    curves = block_curves([name for name, _ in known], [value for _, value in known], [1.0] * len(known))
    return next(iter(curves.values()), {})


def _drawn(grid: "Sequence[Axes]") -> list[float]:
    """All values that lines show."""
    return [float(y) for axes in grid for line in axes.lines for y in np.asarray(line.get_ydata())]
