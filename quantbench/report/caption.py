"""What a table's numbers are, in words: what all cells share goes above it, what differs goes below it."""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

from quantbench.report.cells import Cells
from quantbench.report.numbers import text
from quantbench.report.selection import Key, Query, Row, in_windows, is_reference, mixed, value_of, values_text

CONTAMINATED = "†"

_MOST_LABELS = 6
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
    mixes = _mixes(rows, query)
    told = {*query.shown, *mixes}
    first, parts = rows[0], []
    if "metric" not in told:
        direction = "higher" if first["higher_is_better"] else "lower"
        parts.append(f"{first['metric']} ({first['unit']}), {direction} is better")
    if "task" not in told:
        parts.append(f"on {first['task']}")
    windows = next((row for row in rows if in_windows(row)), None)
    if windows is not None and "protocol" not in told:
        parts.append(f"protocol {windows['protocol']}")
    if "model" not in told:
        revision = first["model_revision"].removeprefix("sha256:")[:_HASH_DIGITS]
        parts.append(f"model {first['model']} ({revision})")
    if "dtype" not in told:
        parts.append(first["dtype"])
    quantized = [row for row in rows if not is_reference(row)]
    for name, describe in _settings(query).items():
        values = {describe(row) for row in quantized} if name not in _BELOW_ONLY else set()
        only = values.pop() if len(values) == 1 else None
        if only is not None:
            parts.append(f"{name} {only}")
    parts += [f"mixes {field}, as asked: {values}" for field, values in mixes.items()]
    return "; ".join(parts)


def _mixes(rows: Sequence[Row], query: Query) -> dict[str, str]:
    """Fields that were allowed to differ between cells and do, with their values."""
    quantized = [row for row in rows if not is_reference(row)]
    calibrated = [row for row in quantized if row["statistics"] != "none"]
    differing = {field: values_text(quantized, field) for field, _, _ in mixed(rows, query.shown)}
    if len({row["statistics"] for row in calibrated}) > 1 and "statistics" not in query.shown:
        differing["statistics"] = values_text(calibrated, "statistics")
    return {field: differing[field] for field in query.mix if field in differing}


def notes(cells: Cells, query: Query) -> list[str]:
    """Settings that differ between cells, each value with the rows that have it, and the meaning of the marks."""
    found = []
    quantized = {place: row for place, row in cells.cells.items() if not is_reference(row)}
    for name, describe in _settings(query).items():
        values = [(place, describe(row)) for place, row in quantized.items()]
        if len({value for _, value in values}) > 1:
            found.append(f"{name}: {_where(values, query)}")
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


def _where(values: Sequence[tuple[tuple[Key, Key], str | None]], query: Query) -> str:
    """Each value with the rows that have it, in the fewest words that tell them apart; the most common one last."""
    keys = [(*row_key, *col_key) for (row_key, col_key), _ in values]
    chosen = _telling(list(zip(keys, (value for _, value in values), strict=True)), query)
    places: dict[str | None, set[str]] = {}
    for key, (_, value) in zip(keys, values, strict=True):
        place = label([query.shown[index] for index in chosen], [key[index] for index in chosen])
        places.setdefault(value, set()).add(place)
    most = max(places, key=lambda value: (len(places[value]), value is None))
    if most is not None and len(places[most]) > _MOST_LABELS:
        rest = [f"{value} ({_listed(places[value])})" for value in sorted(v for v in places if v not in (None, most))]
        return "; ".join([*rest, f"{most} (all others{_lacking(places)})"])
    return "; ".join(f"{value} ({_listed(places[value])})" for value in sorted(v for v in places if v is not None))


def _telling(values: Sequence[tuple[Key, str | None]], query: Query) -> tuple[int, ...]:
    """The fewest shown fields, by position, that decide the value of every cell: method before method and bits."""
    for count in range(1, len(query.shown)):
        for chosen in combinations(range(len(query.shown)), count):
            parts = {(tuple(key[index] for index in chosen), value) for key, value in values}
            if len(parts) == len({part for part, _ in parts}):
                return chosen
    return tuple(range(len(query.shown)))


def _lacking(places: Mapping[str | None, set[str]]) -> str:
    return f"; none: {_listed(places[None])}" if None in places else ""


def _listed(places: set[str]) -> str:
    named = sorted(places)
    more = len(named) - _MOST_LABELS
    return ", ".join(named[:_MOST_LABELS]) + (f" and {more} more" if more > 0 else "")
