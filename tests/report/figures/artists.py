"""Reading back what matplotlib would draw."""

from itertools import combinations

from matplotlib.container import ErrorbarContainer
from matplotlib.text import Text


def series(figure) -> dict[str, ErrorbarContainer]:
    return {container.get_label(): container for container in figure.axes[0].containers}


def points(container) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in zip(*container.lines[0].get_data(), strict=True)]


def bars(container, *, axis=1) -> list[tuple[float, float]]:
    """Ends of the error bars along x (0) or y (1)."""
    found = [[(float(a[axis]), float(b[axis])) for a, b in lines.get_segments()] for lines in container.lines[2]]
    return next(ends for ends in found if any(low != high for low, high in ends))


def line(figure, label):
    return next(line for line in figure.axes[0].lines if line.get_label() == label)


def legend(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def clipped(figure) -> bool:
    """Whether anything that is drawn reaches beyond the figure's edge."""
    figure.draw_without_rendering()
    drawn, page = figure.get_tightbbox(), figure.bbox_inches
    return drawn.x0 < 0 or drawn.y0 < 0 or drawn.x1 > page.x1 or drawn.y1 > page.y1


def overlapping(figure) -> list[tuple[str, str]]:
    """Tick labels of one axis that touch, slanted ones aside."""
    figure.draw_without_rendering()
    axes = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    return [
        (a.get_text(), b.get_text())
        for axis in axes
        for a, b in combinations(_tick_labels(axis), 2)
        if not a.get_rotation() % 90 and a.get_window_extent().overlaps(b.get_window_extent())
    ]


def _tick_labels(axis) -> list[Text]:
    low, high = sorted(axis.get_view_interval())
    labels = [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    return [label for label in labels if label.get_visible() and label.get_text()]
