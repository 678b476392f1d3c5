"""A comparison table as aligned Markdown, as LaTeX with booktabs, or as CSV."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quantbench.report.caption import CONTAMINATED, label
from quantbench.report.cells import Cells
from quantbench.report.numbers import rounded, text
from quantbench.report.selection import Key, Query, Row, is_reference

MISSING = "-"

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    CONTAMINATED: r"$^\dagger$",
}
# Where these differ along the rows, the best of a column says nothing: other questions, or other prices.
_INCOMPARABLE = {"metric", "task", "model", "model_revision", "protocol", "corpus", "dtype", "evaluation_hash"} | {
    "bits",
    "bits_per_weight",
    "group_size",
    "seed",
}


@dataclass(frozen=True)
class Cell:
    """A number as written, with its emphasis and footnote mark."""

    text: str
    best: bool = False
    mark: str = ""


@dataclass(frozen=True)
class Grid:
    """A table ready to be written: ``header`` names ``labels`` columns and then the number columns."""

    header: Sequence[str]
    labels: Sequence[Sequence[str]]
    cells: Sequence[Sequence[Cell]]


def build(cells: Cells, query: Query) -> Grid:
    """Numbers to the digits their interval supports, the best of each column marked, missing cells as ``-``."""
    best = _best(cells, query)
    return Grid(
        header=[*query.rows, *(label(query.cols, key) for key in cells.col_keys)],
        labels=[[text(part) if part is not None else MISSING for part in key] for key in cells.row_keys],
        cells=[
            [_cell(cells.cells.get((row_key, col_key)), best.get(col_key)) for col_key in cells.col_keys]
            for row_key in cells.row_keys
        ],
    )


def _cell(row: Row | None, best: float | None) -> Cell:
    if row is None:
        return Cell(MISSING)
    number = rounded(row["value"], low=row["ci_low"], high=row["ci_high"], stderr=row["stderr"])
    mark = CONTAMINATED if row["contaminated"] else ""
    return Cell(number, best=row["value"] == best and not is_reference(row), mark=mark)


def _best(cells: Cells, query: Query) -> Mapping[Key, float]:
    if _INCOMPARABLE & set(query.rows):
        return {}
    best = {}
    for col_key in cells.col_keys:
        column = [row for (_, key), row in cells.cells.items() if key == col_key and not is_reference(row)]
        values = [row["value"] for row in column if math.isfinite(row["value"])]
        if len(set(values)) > 1:
            best[col_key] = max(values) if column[0]["higher_is_better"] else min(values)
    return best


def markdown(grid: Grid, title: str, notes: Sequence[str]) -> str:
    """A table that reads aligned as text, its title above and its notes below."""
    names = len(grid.header) - len(grid.cells[0])

    def written(cell: Cell) -> str:
        return (f"**{cell.text}**" if cell.best else cell.text) + cell.mark

    body = [
        [_pipes(part) for part in labels] + [written(cell) for cell in row]
        for labels, row in zip(grid.labels, grid.cells, strict=True)
    ]
    header = [_pipes(part) for part in grid.header]
    widths = [max(len(line[column]) for line in [header, *body]) for column in range(len(header))]

    def line(parts: Sequence[str]) -> str:
        padded = [
            part.ljust(width) if column < names else part.rjust(width)
            for column, (part, width) in enumerate(zip(parts, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * width if column < names else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    return "\n".join([title, "", line(header), line(rule), *map(line, body), *(f"\n{note}" for note in notes)]) + "\n"


def _pipes(part: str) -> str:
    return part.replace("|", "\\|")


def latex(grid: Grid, title: str, notes: Sequence[str]) -> str:
    """A table environment for ``\\usepackage{booktabs}``: caption, rules, notes below."""
    names = len(grid.header) - len(grid.cells[0])

    def written(cell: Cell) -> str:
        return (rf"\textbf{{{escape(cell.text)}}}" if cell.best else escape(cell.text)) + escape(cell.mark)

    body = [
        " & ".join([escape(part) for part in labels] + [written(cell) for cell in row]) + r" \\"
        for labels, row in zip(grid.labels, grid.cells, strict=True)
    ]
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape(title)}.}}",
        rf"\begin{{tabular}}{{{'l' * names}{'r' * (len(grid.header) - names)}}}",
        r"\toprule",
        " & ".join(map(escape, grid.header)) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        *(rf"\par\smallskip{{\footnotesize {escape(note)}}}" for note in notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escape(part: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(_LATEX.get(character, character) for character in part)


def comma_separated(cells: Cells, query: Query) -> str:
    """The table for a program: every digit of every value, empty where there is no run."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*query.rows, *(label(query.cols, key) for key in cells.col_keys)])
    for row_key in cells.row_keys:
        found = (cells.cells.get((row_key, col_key)) for col_key in cells.col_keys)
        writer.writerow(
            ["" if part is None else text(part) for part in row_key]
            + ["" if row is None else repr(row["value"]) for row in found]
        )
    return out.getvalue()
