"""``python -m quantbench table``: stored runs as a comparison table that refuses to mix what cannot be compared."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from quantbench.arguments import ArgumentParser
from quantbench.errors import InputError
from quantbench.report import caption, render
from quantbench.report.cells import arrange
from quantbench.report.options import conditions, fields
from quantbench.report.output import emit
from quantbench.report.selection import Query, check_comparable, select

_DEFAULT_METRIC = "perplexity"


def main(argv: Sequence[str]) -> int:
    """Print the table that ``argv`` (without the program's name and verb) asks for; 2 and one line if it cannot be."""
    try:
        arguments = _parser().parse_args(argv)
        output, notes = make_table(arguments.results, _query(arguments), form=arguments.format)
        if arguments.output is None:
            emit(output, sys.stdout)
        else:
            _save(Path(arguments.output), output)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for note in notes:
        emit(f"note: {note}\n", sys.stderr)
    return 0


def make_table(results: str | Path, query: Query, *, form: str) -> tuple[str, list[str]]:
    """The table as ``md``, ``latex`` or ``csv`` text, and the notes that the text has no place for (CSV).

    Raises:
        InputError: nothing stored, nothing selected, or runs that cannot stand in one table.
    """
    from quantbench.store.parquet import load

    frame = load(results, metrics=query.metrics)
    if not set(query.metrics) <= set(frame["metric"].unique()):
        frame = load(results)  # to name what there is
    rows = select(frame, query)
    check_comparable(rows, query)
    cells = arrange(rows, query)
    title, notes = caption.title(cells, query), caption.notes(cells, query)
    if form == "csv":
        return render.comma_separated(cells, query), [title, *notes]
    write = render.markdown if form == "md" else render.latex
    return write(render.build(cells, query), title, notes), []


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="quantbench table",
        description="Tabulate stored runs. Fields are recorded columns (method, bits, group_size, seed, model ...) or "
        "dotted configuration fields (rounding.damp_percent); several are joined by commas.",
    )
    parser.add_argument("results", nargs="?", default="results", help="results folder or parquet file (%(default)s)")
    parser.add_argument("--rows", default="method", metavar="FIELDS", help="fields of the rows (%(default)s)")
    parser.add_argument("--cols", default="bits", metavar="FIELDS", help="fields of the columns (%(default)s)")
    parser.add_argument("--metric", metavar="NAMES", help=f"metric ({_DEFAULT_METRIC}; all if a field is metric)")
    parser.add_argument("--task", metavar="NAME", help="corpus or task, where the metric has several")
    parser.add_argument(
        "--where", nargs="+", action="extend", default=[], metavar="FIELD=VALUE", help="only these (VALUE,VALUE: any)"
    )
    parser.add_argument("--format", choices=("md", "latex", "csv"), default="md", help="(%(default)s)")
    parser.add_argument("-o", "--output", metavar="FILE", help="write to a file")
    return parser


def _query(arguments: argparse.Namespace) -> Query:
    rows, cols = fields(arguments.rows, "--rows"), fields(arguments.cols, "--cols")
    twice = sorted({field for field in (*rows, *cols) if (*rows, *cols).count(field) > 1})
    if twice:
        raise InputError(f"{twice[0]} is given twice in --rows and --cols")
    default = () if "metric" in (*rows, *cols) else (_DEFAULT_METRIC,)
    metrics = fields(arguments.metric, "--metric") if arguments.metric is not None else default
    return Query(rows=rows, cols=cols, metrics=metrics, task=arguments.task, where=conditions(arguments.where))


def _save(path: Path, output: str) -> None:
    try:
        path.write_text(output, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
