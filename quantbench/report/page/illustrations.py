"""The figures that a store allows: every kind is tried on every group of comparable runs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quantbench.curves import TRAIN_LOSS
from quantbench.errors import InputError
from quantbench.layers import LAYER_METRICS
from quantbench.report.figure import KINDS, make_figure, parser, render
from quantbench.report.numbers import text

if TYPE_CHECKING:
    import pandas as pd

_COMPARABLE = ("model", "dtype", "protocol", "corpus")
_MOST_GROUPS = 6
# Wider than a paper's column, as a screen is; a page of everything shows both modes of statistics and says so.
_ALWAYS = ("-o", "page.svg", "--width", "4.6", "--mix", "statistics")


@dataclass(frozen=True)
class Illustration:
    """A figure for the page. title: its kind and the runs that it shows."""

    title: str
    caption: str
    svg: bytes


def illustrations(frame: "pd.DataFrame", results: str | Path) -> tuple[list[Illustration], list[str]]:
    """The figures of the runs that were read from ``results``, and for those that cannot be drawn the reason."""
    drawn, refused = [], []
    groups = list(frame.groupby(list(_COMPARABLE), sort=True))
    for key, group in groups[:_MOST_GROUPS]:
        where = ", ".join(map(str, key)) if len(groups) > 1 else ""
        for kind, options, about in attempts(group):
            shows = KINDS[kind].shows
            title = ", ".join(filter(None, (shows[0].upper() + shows[1:], about, where)))
            arguments = parser().parse_args([kind, str(results), *_ALWAYS, *options])
            try:
                drawing = make_figure(group, arguments)
            except InputError as error:
                refused.append(f"{title}: {error}")
                continue
            drawn.append(Illustration(title, drawing.caption, render(drawing.figure, "svg")))
    if len(groups) > _MOST_GROUPS:
        refused.append(f"{len(groups) - _MOST_GROUPS} more groups of {', '.join(_COMPARABLE)}")
    return drawn, refused


def attempts(frame: "pd.DataFrame") -> Iterator[tuple[str, Sequence[str], str]]:
    """Kinds with their options, and what the options choose in words: those that show something in these runs."""
    quantized = frame[frame["bits"].notna()]
    widths = sorted(quantized["bits"].unique())
    series = ("--by", "method,variant") if quantized["variant"].nunique() > 1 else ()
    yield "pareto", series, ""
    if len(widths) > 1:
        yield "bits", series, ""
    if quantized["transform"].nunique() > 1 and quantized["rounding"].nunique() > 1:
        for width in widths:
            yield "heatmap", ("--where", f"bits={text(int(width))}"), f"{width} bits"
    if "acc" in set(quantized["metric"]):
        yield "accuracy", series, ""
    yield "time", series, ""
    for field in ("num_samples", "seed"):
        if quantized[field].nunique() > 1:
            yield "sensitivity", (*series, "--x", field), field
    for metric in sorted(set(quantized["metric"]) & set(LAYER_METRICS)):
        for width in widths:
            about = f"{metric}, {width} bits"
            yield "layers", (*series, "--metric", metric, "--where", f"bits={text(int(width))}"), about
    if TRAIN_LOSS in set(quantized["metric"]):
        for width in widths:
            yield "training", (*series, "--where", f"bits={text(int(width))}"), f"{width} bits"
