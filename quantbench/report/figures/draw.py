"""Marks that several kinds of figure share: series with intervals, full precision's line, the Pareto front."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from quantbench.report.figures.data import Bounds, Point
from quantbench.report.figures.style import FULL_PRECISION_LINE, GREY, SeriesStyle, plain

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.container import Container

    Handle = Artist | Container


def ordered(points: Iterable[Point]) -> list[str]:
    """The names of the series, each once, in the order they come."""
    return list(dict.fromkeys(point.series for point in points))


def draw_series(axes: "Axes", points: Sequence[Point], name: str, style: SeriesStyle, *, connect: bool) -> "Handle":
    """One series as markers with their intervals, connected along x or not; returns what its legend shows."""
    points = sorted(points, key=lambda point: point.x)
    return axes.errorbar(
        [point.x for point in points],
        [point.y for point in points],
        xerr=_arms([(point.x, point.x_bounds) for point in points]),
        yerr=_arms([(point.y, point.y_bounds) for point in points]),
        color=style.color,
        marker=style.marker,
        linestyle=style.line if connect else "none",
        elinewidth=0.7,
        label=plain(name),
        zorder=3,
    )


def draw_others(axes: "Axes", points: Sequence[Point]) -> "Handle":
    """Points that no legend can name, in grey behind the named ones."""
    (line,) = axes.plot(
        [point.x for point in points],
        [point.y for point in points],
        color="#b5b5b5",
        marker="o",
        markersize=2.5,
        linestyle="none",
        label=f"{len(ordered(points))} others",
        zorder=2,
    )
    return line


def draw_single_runs(axes: "Axes", points: Sequence[Point], color: str) -> "Sequence[Handle]":
    """Runs behind a mean, small and pale."""
    if not points:
        return []
    return axes.plot(
        [point.x for point in points],
        [point.y for point in points],
        color=color,
        alpha=0.45,
        marker="o",
        markersize=2.5,
        linestyle="none",
        label="one seed",
        zorder=2,
    )


def draw_reference(axes: "Axes", value: float | None) -> list["Handle"]:
    """Full precision as a line across the figure, where the axis has a place for it (a logarithm has none for 0)."""
    if value is None or (axes.get_yscale() == "log" and value <= 0):
        return []
    return [axes.axhline(value, label="full precision", zorder=1, **FULL_PRECISION_LINE)]


def pareto_front(points: Sequence[Point], *, higher_is_better: bool) -> list[Point]:
    """The points that no other beats: cheaper or equal in x and better or equal in y, one of them strictly."""
    sign = -1.0 if higher_is_better else 1.0
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.x, sign * point.y)):
        if not front or sign * point.y < sign * front[-1].y:
            front.append(point)
    return front


def draw_front(axes: "Axes", front: Sequence[Point]) -> "Handle":
    """A staircase: what the front promises at a given x is the value of the last point before it."""
    (line,) = axes.plot(
        [point.x for point in front],
        [point.y for point in front],
        color=GREY,
        linewidth=0.9,
        drawstyle="steps-post",
        label="Pareto front",
        zorder=1.5,
    )
    return line


def _arms(values: Sequence[tuple[float, Bounds | None]]) -> Any:
    """Lengths below and above, as errorbar wants them; none where a point has no interval."""
    if all(bounds is None for _, bounds in values):
        return None
    arms = [(0.0, 0.0) if bounds is None else (value - bounds[0], bounds[1] - value) for value, bounds in values]
    return [[max(0.0, low) for low, _ in arms], [max(0.0, high) for _, high in arms]]
