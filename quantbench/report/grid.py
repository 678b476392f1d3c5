"""A table's content ready to be written in any format: labels, numbers with emphasis, columns of recorded facts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quantbench.report.caption import CONTAMINATED, label
from quantbench.report.cells import Cells
from quantbench.report.numbers import decimals, fixed, rounded, size, text
from quantbench.report.published import Published, match
from quantbench.report.seeds import runs_of
from quantbench.report.selection import Key, Query, Row, is_reference, value_of
from quantbench.report.significance import Ranking

MISSING = "-"

_NAMES = {"bits_per_weight": "bits/weight", "model_bytes": "model size", "quantized_bytes": "quantized size"}


@dataclass(frozen=True)
class Cell:
    """A number as written and with every digit (``raw``), half of an average's interval, emphasis, footnote mark."""

    text: str
    raw: str = ""
    half: str = ""
    best: bool = False
    tied: bool = False
    mark: str = ""


@dataclass(frozen=True)
class Grid:
    """``header`` names the label columns, then the number columns; ``groups`` is the heading over each row, if any."""

    header: Sequence[str]
    labels: Sequence[Sequence[str]]
    cells: Sequence[Sequence[Cell]]
    groups: Sequence[str]

    @property
    def label_count(self) -> int:
        return len(self.labels[0])


def build(
    cells: Cells,
    query: Query,
    ranking: Ranking,
    *,
    facts: Sequence[str] = (),
    published: Sequence[Published] | None = None,
) -> Grid:
    """Numbers to the digits their interval supports, missing cells as ``-``.

    facts: recorded fields to show beside the numbers, once for a row where its cells share the value, else beside each
    number; published: numbers of papers, put beside ours where model, setting and protocol agree.
    """
    once = [field for field in facts if not _varies(cells, field)]
    beside = [field for field in facts if field not in once]
    header = [*query.rows[query.groups :], *(_NAMES.get(field, field) for field in once)]
    for col_key in cells.col_keys:
        title = label(query.cols, col_key)
        header += [title, *(f"{title} {_NAMES.get(field, field)}".strip() for field in beside)]
        header += [f"{title} published".strip()] if published is not None else []
    rows = []
    for row_key in cells.row_keys:
        row = [_shared(cells, row_key, field) for field in once]
        for col_key in cells.col_keys:
            found = cells.cells.get((row_key, col_key))
            row.append(_number(found, (row_key, col_key), ranking))
            row += [_fact(found, field) for field in beside]
            row += [_published(found, published)] if published is not None else []
        rows.append(row)
    return Grid(
        header=header,
        labels=[
            [text(part) if part is not None else MISSING for part in key[query.groups :]] for key in cells.row_keys
        ],
        cells=rows,
        groups=[_group(query, key) for key in cells.row_keys],
    )


def _group(query: Query, key: Key) -> str:
    if not query.groups:
        return ""
    fields, parts = query.rows[: query.groups], key[: query.groups]
    return label(fields, parts) if any(part is not None for part in parts) else "full precision"


def _number(row: Row | None, place: tuple[Key, Key], ranking: Ranking) -> Cell:
    if row is None:
        return Cell(MISSING)
    written = rounded(row["value"], low=row["ci_low"], high=row["ci_high"], stderr=row["stderr"])
    return Cell(
        written,
        repr(row["value"]),
        half=_half(row) if len(runs_of(row)) > 1 else "",
        best=place in ranking.best,
        tied=place in ranking.tied,
        mark=CONTAMINATED if row["contaminated"] else "",
    )


def _half(row: Row) -> str:
    """Half of the interval, to the digits of the number before it; nothing where there is none."""
    low, high = row["ci_low"], row["ci_high"]
    return "" if low is None or high is None else fixed((high - low) / 2, decimals(row["value"], low=low, high=high))


def _varies(cells: Cells, field: str) -> bool:
    found: Mapping[Key, set[str]] = {key: set() for key in cells.row_keys}
    for (row_key, _), row in cells.cells.items():
        if not is_reference(row):
            found[row_key].add(text(value_of(row, field)))
    return any(len(values) > 1 for values in found.values())


def _shared(cells: Cells, row_key: Key, field: str) -> Cell:
    rows = (cells.cells.get((row_key, col_key)) for col_key in cells.col_keys)
    return _fact(next((row for row in rows if row is not None), None), field)


def _fact(row: Row | None, field: str) -> Cell:
    value = None if row is None else value_of(row, field)
    if value is None:
        return Cell(MISSING)
    if field.endswith("_bytes"):
        return Cell(size(value), str(value))
    raw = repr(value) if isinstance(value, float) else text(value)
    return Cell(f"{value:.2f}" if field == "bits_per_weight" else text(value), raw)


def _published(row: Row | None, published: Sequence[Published]) -> Cell:
    found = match(row, published) if row is not None else []
    values = sorted({item.value for item in found})
    if not values or any(not math.isfinite(value) for value in values):
        return Cell(MISSING)
    return Cell("/".join(f"{value:g}" for value in values), "/".join(repr(value) for value in values))
