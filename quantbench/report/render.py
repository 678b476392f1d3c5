"""A table as aligned Markdown or as CSV."""

import csv
import io
from collections.abc import Sequence

from quantbench.report.grid import MISSING, Cell, Grid


def markdown(grid: Grid, title: str, notes: Sequence[str]) -> str:
    """A table that reads aligned as text, its title above and its notes below; groups are rows of their own."""
    width = len(grid.header)
    body: list[list[str]] = []
    group = ""
    for heading, labels, row in zip(grid.groups, grid.labels, grid.cells, strict=True):
        if heading != group:
            body.append([f"*{_pipes(heading)}*", *[""] * (width - 1)])
            group = heading
        body.append([_pipes(part) for part in labels] + [_written(cell) for cell in row])
    header = [_pipes(part) for part in grid.header]
    widths = [max(len(line[column]) for line in [header, *body]) for column in range(width)]

    def line(parts: Sequence[str]) -> str:
        padded = [
            part.ljust(room) if column < grid.label_count else part.rjust(room)
            for column, (part, room) in enumerate(zip(parts, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * room if column < grid.label_count else "-" * (room - 1) + ":" for column, room in enumerate(widths)]
    return "\n".join([title, "", line(header), line(rule), *map(line, body), *(f"\n{note}" for note in notes)]) + "\n"


def _written(cell: Cell) -> str:
    number = _pipes(cell.text)
    number = f"**{number}**" if cell.best else f"<u>{number}</u>" if cell.tied else number
    return number + cell.mark + (f" ± {cell.half}" if cell.half else "")


def _pipes(part: str) -> str:
    return part.replace("|", "\\|")


def comma_separated(grid: Grid) -> str:
    """The table for a program: every digit of every value, empty where there is no run; groups as a first column."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    grouped = any(grid.groups)
    writer.writerow([*(["group"] if grouped else []), *grid.header])
    for heading, labels, row in zip(grid.groups, grid.labels, grid.cells, strict=True):
        names = ["" if part == MISSING else part for part in labels]
        writer.writerow([*([heading] if grouped else []), *names, *(cell.raw for cell in row)])
    return out.getvalue()
