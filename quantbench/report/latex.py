"""A table as LaTeX, for ``\\usepackage{booktabs,siunitx}``."""

import re
from collections.abc import Sequence

from quantbench.report.caption import CONTAMINATED
from quantbench.report.grid import Cell, Grid

_ESCAPES = {
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
_NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]\d+)?")


def latex(grid: Grid, title: str, notes: Sequence[str]) -> str:
    """A table environment: caption, rules, numbers aligned at the decimal point and left to siunitx, notes below."""
    decimals = [max((_decimals(cell) for cell in column), default=0) for column in zip(*grid.cells, strict=True)]
    lines = [
        r"% \usepackage{booktabs,siunitx} \sisetup{detect-all}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape(title)}.}}",
        rf"\begin{{tabular}}{{{'l' * grid.label_count}{'r' * len(decimals)}}}",
        r"\toprule",
        " & ".join(map(escape, grid.header)) + r" \\",
        r"\midrule",
        *_body(grid, decimals),
        r"\bottomrule",
        r"\end{tabular}",
        *(rf"\par\smallskip{{\footnotesize {escape(note)}}}" for note in notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _body(grid: Grid, decimals: Sequence[int]) -> list[str]:
    lines, width, group = [], len(grid.header), ""
    for heading, labels, row in zip(grid.groups, grid.labels, grid.cells, strict=True):
        if heading != group:
            lines += [r"\addlinespace"] if group else []
            lines.append(rf"\multicolumn{{{width}}}{{l}}{{\emph{{{escape(heading)}}}}} \\")
            group = heading
        cells = (_written(cell, places) for cell, places in zip(row, decimals, strict=True))
        lines.append(" & ".join([*map(escape, labels), *cells]) + r" \\")
    return lines


def _written(cell: Cell, decimals: int) -> str:
    if not _NUMBER.fullmatch(cell.text):
        return escape(cell.text) + escape(cell.mark)
    number = rf"\num{{{cell.text}}}"
    number = rf"\textbf{{{number}}}" if cell.best else rf"\underline{{{number}}}" if cell.tied else number
    # What a number lacks behind the point is left blank, and marks take no room: points stand below each other.
    own = _decimals(cell)
    blank = ("" if own else ".") + "0" * (decimals - own) if decimals > own else ""
    padding = rf"\phantom{{{blank}}}" if blank and "e" not in cell.text and not cell.half else ""
    mark = rf"\rlap{{{escape(cell.mark)}}}" if cell.mark else ""
    half = rf"\,$\pm$\,\num{{{cell.half}}}" if cell.half else ""
    return number + half + mark + padding


def _decimals(cell: Cell) -> int:
    plain = _NUMBER.fullmatch(cell.text) and "e" not in cell.text
    return len(cell.text.partition(".")[2]) if plain else 0


def escape(part: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(_ESCAPES.get(character, character) for character in part)
