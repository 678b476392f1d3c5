"""``python -m quantbench table``: stored runs as a comparison table that refuses to mix what cannot be compared."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quantbench.arguments import ArgumentParser
from quantbench.errors import InputError
from quantbench.report import caption
from quantbench.report.cells import DOWN, arrange, ordered
from quantbench.report.grid import build
from quantbench.report.html import html
from quantbench.report.latex import latex
from quantbench.report.options import conditions, fields
from quantbench.report.output import emit
from quantbench.report.pairing import Pairing
from quantbench.report.published import published
from quantbench.report.render import comma_separated, markdown
from quantbench.report.seeds import SEED, averaged
from quantbench.report.selection import Query, check_comparable, check_statistics, select
from quantbench.report.significance import rank

_DEFAULT_METRIC = "perplexity"
_WRITERS = {"md": markdown, "latex": latex, "html": html}


def main(argv: Sequence[str]) -> int:
    """Print the table that ``argv`` (without the program's name and verb) asks for; 2 and one line if it cannot be."""
    try:
        arguments = _parser().parse_args(argv)
        output, notes = make_table(
            arguments.results, _query(arguments), form=arguments.format, layout=_layout(arguments)
        )
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


@dataclass(frozen=True)
class Layout:
    """How the cells are laid out: the order of rows (a field or ``value``, then perhaps ``:down``), facts beside the
    numbers (recorded fields), whether published numbers stand there too, and whether seeds are averaged."""

    sort: str | None = None
    facts: tuple[str, ...] = ()
    published: bool = False
    over_seeds: bool = False


def make_table(results: str | Path, query: Query, *, form: str, layout: Layout | None = None) -> tuple[str, list[str]]:
    """The table as ``md``, ``latex``, ``html`` or ``csv`` text, and the notes that the text has no place for (CSV).

    Raises:
        InputError: nothing stored, nothing selected, or runs that cannot stand in one table.
    """
    from quantbench.store.parquet import Store, load

    layout = layout or Layout()
    frame = load(results, metrics=query.metrics)
    if not set(query.metrics) <= set(frame["metric"].unique()):
        frame = load(results)  # to name what there is
    sort = [layout.sort.removesuffix(DOWN)] if layout.sort is not None else []
    rows = select(frame, query, also=(*layout.facts, *sort))
    check_comparable(rows, query)
    check_statistics(rows, query)
    pairing, averages = Pairing(Store(results)) if Path(results).is_dir() else None, ""
    if layout.over_seeds:
        rows, averages = averaged(rows, query, pairing)
    cells = arrange(rows, query)
    if layout.sort is not None:
        cells = ordered(cells, query, layout.sort)
    ranking = rank(cells, query, pairing)
    numbers = published() if layout.published else None
    grid = build(cells, query, ranking, facts=layout.facts, published=numbers)
    title = caption.title(cells, query)
    notes = [*caption.notes(cells, query), *filter(None, [averages, ranking.note()])]
    if form == "csv":
        return comma_separated(grid), [title, *notes]
    return _WRITERS[form](grid, title, notes), []


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
    parser.add_argument("--group", metavar="FIELDS", help="fields whose values head groups of rows")
    parser.add_argument("--sort", metavar="FIELD", help="order of the rows: a field, or value (best first); FIELD:down")
    parser.add_argument("--with", dest="facts", metavar="FIELDS", help="show these too: bits_per_weight,model_bytes")
    parser.add_argument("--over", choices=SEED[:1], help="average runs that differ in the seed alone")
    parser.add_argument("--published", action="store_true", help="published numbers of the same setting beside ours")
    parser.add_argument("--mix", metavar="FIELDS", help="fields in which cells may differ unseen; the caption says so")
    parser.add_argument("--format", choices=("md", "latex", "html", "csv"), default="md", help="(%(default)s)")
    parser.add_argument("-o", "--output", metavar="FILE", help="write to a file")
    return parser


def _query(arguments: argparse.Namespace) -> Query:
    groups = fields(arguments.group, "--group") if arguments.group is not None else ()
    rows, cols = (*groups, *fields(arguments.rows, "--rows")), fields(arguments.cols, "--cols")
    twice = sorted({field for field in (*rows, *cols) if (*rows, *cols).count(field) > 1})
    if twice:
        raise InputError(f"{twice[0]} is given twice in --rows, --cols and --group")
    default = () if "metric" in (*rows, *cols) else (_DEFAULT_METRIC,)
    return Query(
        rows=rows,
        cols=cols,
        metrics=fields(arguments.metric, "--metric") if arguments.metric is not None else default,
        task=arguments.task,
        where=conditions(arguments.where),
        options="--rows or --cols, or to --mix to allow it",
        groups=len(groups),
        mix=fields(arguments.mix, "--mix") if arguments.mix is not None else (),
    )


def _layout(arguments: argparse.Namespace) -> Layout:
    facts = fields(arguments.facts, "--with") if arguments.facts is not None else ()
    return Layout(arguments.sort, facts, arguments.published, over_seeds=arguments.over is not None)


def _save(path: Path, output: str) -> None:
    try:
        path.write_text(output, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
