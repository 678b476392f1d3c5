"""What a table's numbers are, in words: what all cells share goes above it, what differs goes below it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from quantbench.report.cells import Cells
from quantbench.report.numbers import text
from quantbench.report.selection import Query, Row, in_windows, is_reference, value_of

CONTAMINATED = "†"

_MOST_LABELS = 12
_HASH_DIGITS = 12
# What a caption need not say of every number, but a reader must know when it differs between cells.
_BELOW_ONLY = ("seed", "device", "code")


def label(fields: Sequence[str], key: Sequence[object]) -> str:
    """A row's or column's key in words: names stand alone, numbers say what they are (bits=4)."""
    parts = [
        text(value) if isinstance(value, str) or field == "method" else f"{field}={text(value)}"
        for field, value in zip(fields, key, strict=True)
    ]
    return " ".join(part for part in parts if part)


def title(cells: Cells, query: Query) -> str:
    """Metric, unit and direction, and everything that all cells have in common."""
    rows = list(cells.cells.values())
    first, parts = rows[0], []
    if "metric" not in query.shown:
        direction = "higher" if first["higher_is_better"] else "lower"
        parts.append(f"{first['metric']} ({first['unit']}), {direction} is better")
    if "task" not in query.shown:
        parts.append(f"on {first['task']}")
    windows = next((row for row in rows if in_windows(row)), None)
    if windows is not None and "protocol" not in query.shown:
        parts.append(f"protocol {windows['protocol']}")
    if "model" not in query.shown:
        revision = first["model_revision"].removeprefix("sha256:")[:_HASH_DIGITS]
        parts.append(f"model {first['model']} ({revision})")
    if "dtype" not in query.shown:
        parts.append(first["dtype"])
    quantized = [row for row in rows if not is_reference(row)]
    for name, describe in _settings(query).items():
        values = {describe(row) for row in quantized} if name not in _BELOW_ONLY else set()
        only = values.pop() if len(values) == 1 else None
        if only is not None:
            parts.append(f"{name} {only}")
    return "; ".join(parts)


def notes(cells: Cells, query: Query) -> list[str]:
    """Settings that differ between cells, each value with the rows that have it, and the meaning of the marks."""
    found = []
    for name, describe in _settings(query).items():
        values = {
            (label(query.rows, row_key), label(query.cols, col_key)): describe(row)
            for (row_key, col_key), row in cells.cells.items()
            if not is_reference(row)
        }
        if len(set(values.values())) > 1:
            found.append(f"{name}: {_where(values)}")
    if any(row["contaminated"] for row in cells.cells.values()):
        found.append(f"{CONTAMINATED} calibrated on the corpus that is evaluated")
    return found


def _settings(query: Query) -> dict[str, Callable[[Row], str | None]]:
    """Settings worth a word that the table does not show already; None where a run has no such setting."""

    def calibration(row: Row) -> str | None:
        return row["calibration"] and f"{row['calibration']} {row['num_samples']}x{row['seqlen']}"

    def code(row: Row) -> str | None:
        commit = row["git_commit"]
        return commit and commit[:_HASH_DIGITS] + (" modified" if row["git_dirty"] else "")

    def plain(field: str) -> Callable[[Row], str | None]:
        def describe(row: Row) -> str | None:
            value: Any = value_of(row, field)
            return None if value in (None, "", "none") else text(value)

        return describe

    def group_size(row: Row) -> str | None:
        return "whole row" if row["group_size"] is None else str(row["group_size"])

    settings = {
        "calibration": ("calibration", calibration),
        "statistics": ("statistics", plain("statistics")),
        "group size": ("group_size", group_size),
        "zero-point": ("symmetric", lambda row: "none (symmetric)" if row["symmetric"] else "asymmetric"),
        "format": ("format", plain("format")),
        "variant": ("variant", plain("variant")),
        "seed": ("seed", plain("seed")),
        "device": ("device", plain("device")),
        "code": ("git_commit", code),
    }
    return {name: describe for name, (field, describe) in settings.items() if field not in query.shown}


def _where(values: Mapping[tuple[str, str], str | None]) -> str:
    """Each value with the rows that have it; with the columns or the cells where rows do not tell them apart."""
    by_row, by_col = ({(place[axis], value) for place, value in values.items()} for axis in (0, 1))
    if len(by_row) == len({row for row, _ in by_row}):
        named = by_row
    elif len(by_col) == len({col for col, _ in by_col}):
        named = by_col
    else:
        named = {(" ".join(filter(None, place)), value) for place, value in values.items()}
    parts = []
    for value in sorted({value for _, value in named if value is not None}):
        places = sorted(place for place, other in named if other == value)
        parts.append(f"{value} ({', '.join(places[:_MOST_LABELS])}{' ...' if len(places) > _MOST_LABELS else ''})")
    return "; ".join(parts)
