"""``python -m quantbench figure``: stored runs as a figure, refusing what a table would refuse."""

import argparse
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantbench.arguments import ArgumentParser
from quantbench.errors import InputError
from quantbench.report.figures import accuracy, bits, heatmap, layers, sensitivity, tradeoff, training
from quantbench.report.figures.drawing import Drawing
from quantbench.report.figures.style import COLUMN_WIDTH, paper_style
from quantbench.report.output import emit

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

FORMATS = ("pdf", "svg", "png")
# Nothing that changes from one run to the next goes into a file: the same store gives the same bytes.
_METADATA: Mapping[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "svg": {"Date": None},
    "png": {"Software": None},
}
_WIDEST = 20.0  # inches


@dataclass(frozen=True)
class Kind:
    """A kind of figure: what it shows, its options, and the function that draws it."""

    shows: str
    arguments: Callable[[argparse.ArgumentParser], None]
    draw: Callable[["pd.DataFrame", argparse.Namespace], Drawing]


KINDS: Mapping[str, Kind] = {
    "pareto": Kind(
        "quality against true bits per weight, with the Pareto front", tradeoff.pareto_arguments, tradeoff.pareto
    ),
    "time": Kind("quality against seconds to calibrate and quantize", tradeoff.time_arguments, tradeoff.time),
    "bits": Kind("degradation against bits, a line for each method", bits.arguments, bits.draw),
    "heatmap": Kind("two fields crossed (transform x rounding)", heatmap.arguments, heatmap.draw),
    "accuracy": Kind("accuracy against KL divergence", accuracy.arguments, accuracy.draw),
    "sensitivity": Kind("dependence on calibration size or seed", sensitivity.arguments, sensitivity.draw),
    "layers": Kind("error of each kind of linear against block, a line for each method", layers.arguments, layers.draw),
    "training": Kind("loss of training against its steps, a line for each method", training.arguments, training.draw),
}


def main(argv: Sequence[str]) -> int:
    """Write the figure that ``argv`` (without the program's name and verb) asks for; 2 and one line if it cannot be."""
    try:
        from quantbench.store.parquet import load

        arguments = parser().parse_args(argv)
        paths = _paths(arguments.output, arguments.formats)
        drawing = make_figure(load(arguments.results), arguments)
        files = [render(drawing.figure, path.suffix[1:]) for path in paths]
        for path, content in zip(paths, files, strict=True):
            _save(path, content)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    emit("".join(f"{path}\n" for path in paths) + f"{drawing.caption}\n", sys.stdout)
    for note in drawing.notes:
        emit(f"note: {note}\n", sys.stderr)
    return 0


def make_figure(frame: "pd.DataFrame", arguments: argparse.Namespace) -> Drawing:
    """The figure that parsed ``arguments`` ask for, of the stored runs in ``frame``.

    Raises:
        InputError: nothing selected, or runs that cannot stand in one figure.
    """
    with paper_style():
        return KINDS[arguments.kind].draw(frame, arguments)


def render(figure: "Figure", form: str) -> bytes:
    """A figure as the bytes of a file, the same for the same figure."""
    content = io.BytesIO()
    with paper_style():
        figure.savefig(content, format=form, metadata=_METADATA[form])
    return content.getvalue()


def parser() -> ArgumentParser:
    """The verb's command line: a kind, and the options that it takes."""
    shared = ArgumentParser(add_help=False)
    shared.add_argument("results", nargs="?", default="results", help="results folder or parquet file (%(default)s)")
    shared.add_argument("-o", "--output", required=True, metavar="FILE", help="file.pdf, .svg or .png; see --formats")
    shared.add_argument("--formats", metavar="NAMES", help="write FILE.pdf, FILE.png ... (pdf,svg,png)")
    shared.add_argument(
        "--where", nargs="+", action="extend", default=[], metavar="FIELD=VALUE", help="only these (VALUE,VALUE: any)"
    )
    shared.add_argument("--mix", metavar="FIELDS", help="fields in which runs may differ unseen; the caption says so")
    shared.add_argument("--width", type=_inches, default=COLUMN_WIDTH, help="inches (%(default)s, a paper's column)")
    shared.add_argument("--height", type=_inches, help="inches (default: as the figure needs)")
    command = ArgumentParser(
        prog="quantbench figure",
        description="Draw stored runs for a paper: vector or PNG, colour-blind safe, sized for a column. Fields are "
        "recorded columns (method, bits, group_size, seed ...) or dotted configuration fields, joined by commas.",
    )
    kinds = command.add_subparsers(dest="kind", required=True, metavar="KIND")
    for name, kind in KINDS.items():
        kind.arguments(kinds.add_parser(name, parents=[shared], help=kind.shows, description=kind.shows))
    return command


def _inches(given: str) -> float:
    value = float(given)
    if not 1 <= value <= _WIDEST:
        raise argparse.ArgumentTypeError(f"{given}: give 1 to {_WIDEST:g} inches")
    return value


def _paths(output: str, formats: str | None) -> list[Path]:
    """Where to write: the one file named, or one for each format."""
    path = Path(output)
    if formats is None:
        if path.suffix[1:] not in FORMATS:
            raise InputError(f"-o {output}: end it in .{', .'.join(FORMATS)}, or give --formats {','.join(FORMATS)}")
        return [path]
    return [path.with_name(f"{path.name}.{name}") for name in check_formats(formats)]


def check_formats(given: str) -> list[str]:
    """File formats from what was given to ``--formats``.

    Raises:
        InputError: one that cannot be written.
    """
    names = given.split(",")
    if unknown := [name for name in names if name not in FORMATS]:
        raise InputError(f"--formats {unknown[0]}: allowed are {', '.join(FORMATS)}")
    return list(dict.fromkeys(names))


def _save(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
