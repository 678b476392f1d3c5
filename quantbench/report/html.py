"""A table as an HTML fragment that stands in any page."""

from collections.abc import Sequence
from html import escape

from quantbench.report.grid import Cell, Grid


def html(grid: Grid, title: str, notes: Sequence[str]) -> str:
    """A table element with its caption, groups as row headings, and the notes as its foot."""
    width = len(grid.header)
    heads = "".join(f"<th scope='col'>{escape(name)}</th>" for name in grid.header)
    lines = ["<table>", f"<caption>{escape(title)}</caption>", f"<thead><tr>{heads}</tr></thead>", "<tbody>"]
    group = ""
    for heading, labels, row in zip(grid.groups, grid.labels, grid.cells, strict=True):
        if heading != group:
            lines.append(f"<tr><th scope='rowgroup' colspan='{width}'>{escape(heading)}</th></tr>")
            group = heading
        names = "".join(f"<th scope='row'>{escape(part)}</th>" for part in labels)
        lines.append(f"<tr>{names}{''.join(map(_written, row))}</tr>")
    lines.append("</tbody>")
    if notes:
        foot = "<br>".join(map(escape, notes))
        lines.append(f"<tfoot><tr><td colspan='{width}'>{foot}</td></tr></tfoot>")
    return "\n".join([*lines, "</table>"]) + "\n"


def _written(cell: Cell) -> str:
    number = escape(cell.text)
    number = f"<strong>{number}</strong>" if cell.best else f"<u>{number}</u>" if cell.tied else number
    half = f" ± {escape(cell.half)}" if cell.half else ""
    return f"<td>{number}{escape(cell.mark)}{half}</td>"
