"""Which stored run stands in which cell of a table, full precision beside every column."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from quantbench.axes import AXES
from quantbench.errors import InputError
from quantbench.report.numbers import text
from quantbench.report.selection import (
    FULL_PRECISION,
    Key,
    Query,
    Row,
    config_paths,
    is_reference,
    key_of,
    value_of,
    values_text,
)

DOWN = ":down"  # after a field to sort by

# What a model that is not quantized does not have.
_QUANTIZATION = (
    "variant",
    *AXES,
    "bits",
    "activation_bits",
    "kv_bits",
    "group_size",
    "symmetric",
    "statistics",
    "calibration",
    "num_samples",
    "seqlen",
    "calibration_hash",
)

# Differences between runs of one cell that do not make them different experiments, named only when nothing else is.
INCIDENTAL = ("device", "git_commit", "git_dirty", "versions")
_NOT_DETERMINANT = frozenset(
    {"run_id", "created", "seconds", "peak_memory", "notes", "config", "bits_per_weight", "quantized_bytes"}
    | {"model_bytes", "value", "stderr", "ci_low", "ci_high", "baseline", *INCIDENTAL}
)


@dataclass(frozen=True)
class Cells:
    """The table's content: keys in the order shown, and one stored row for each cell that has a run."""

    row_keys: tuple[Key, ...]
    col_keys: tuple[Key, ...]
    cells: Mapping[tuple[Key, Key], Row]


def arrange(rows: Sequence[Row], query: Query) -> Cells:
    """Put every row into its cell; full precision, which has no bits, is repeated along the fields it lacks.

    Raises:
        InputError: two runs fall into one cell.
    """
    found: dict[tuple[Key, Key], list[Row]] = {}
    for row in rows:
        if not is_reference(row):
            found.setdefault((key_of(row, query.rows), key_of(row, query.cols)), []).append(row)
    row_keys, col_keys = {key for key, _ in found}, {key for _, key in found}
    for row in [row for row in rows if is_reference(row)] or baselines(rows):
        for keys in _places(row, query, row_keys, col_keys):
            found.setdefault(keys, []).append(row)
    cells = {keys: _single(keys, candidates, query) for keys, candidates in found.items()}
    # A row of full precision alone comes first: it is what the others are read against.
    return Cells(
        row_keys=tuple(sorted({key for key, _ in found}, key=lambda key: (key in row_keys, _order(key)))),
        col_keys=tuple(sorted({key for _, key in found}, key=_order)),
        cells=cells,
    )


def ordered(cells: Cells, query: Query, by: str) -> Cells:
    """The same cells, the rows of each group sorted by a field or by ``value`` (the best of the first column first).

    ``FIELD:down`` sorts downwards. Rows of full precision keep their place on top, rows without the field come last.
    """
    field, down = by.removesuffix(DOWN), by.endswith(DOWN)
    firsts = {
        row_key: next(cells.cells[row_key, key] for key in cells.col_keys if (row_key, key) in cells.cells)
        for row_key in cells.row_keys
    }

    def rank(row_key: Key) -> tuple[int, float, str]:
        row = firsts[row_key]
        kind, number, word = _rank(value_of(row, field))
        return kind, -number if field == "value" and row["higher_is_better"] else number, word

    def place(row_key: Key) -> tuple[object, int]:
        value = value_of(firsts[row_key], field)
        # A value that is not a number has no order.
        last = value is None or value != value
        return _order(row_key[: query.groups]), 0 if is_reference(firsts[row_key]) else 2 if last else 1

    by_field = sorted(cells.row_keys, key=rank, reverse=down)
    return Cells(tuple(sorted(by_field, key=place)), cells.col_keys, cells.cells)


def baselines(rows: Sequence[Row]) -> list[Row]:
    """Full precision as the quantized runs recorded it, for a table without a full-precision run of its own.

    Where their baselines differ (another device, another version) there is no one value to show: nothing is made up.
    """
    absent = dict.fromkeys(_QUANTIZATION) | {"method": FULL_PRECISION, "contaminated": False, "config": {}}
    absent |= dict.fromkeys(("stderr", "ci_low", "ci_high", "bits_per_weight", "quantized_bytes", "model_bytes"))
    made: dict[Key, list[Row]] = {}
    for row in rows:
        if row["baseline"] is not None:
            made.setdefault(key_of(row, ("model", "metric", "task", "protocol", "corpus", "dtype")), []).append(
                {**row, **absent, "value": row["baseline"]}
            )
    return [group[0] for group in made.values() if len({row["value"] for row in group}) == 1]


def _places(row: Row, query: Query, row_keys: set[Key], col_keys: set[Key]) -> list[tuple[Key, Key]]:
    """Cells of a full-precision run: repeated along the columns, or, in a column of its own, along the rows."""
    own_row, own_col = key_of(row, query.rows), key_of(row, query.cols)
    cols = _expand(own_col, col_keys)
    if cols == [own_col] and own_col not in col_keys:
        return [(row_key, own_col) for row_key in _expand(own_row, row_keys)]
    if own_row in row_keys or all(part is None for part in own_row):
        own_row = (FULL_PRECISION, *own_row[1:])
    return [(own_row, col_key) for col_key in cols]


def _expand(key: Key, others: Iterable[Key]) -> list[Key]:
    matching = [other for other in others if all(a is None or a == b for a, b in zip(key, other, strict=True))]
    return matching if None in key and matching else [key]


def _order(key: Key) -> list[tuple[int, float, str]]:
    return [_rank(part) for part in key]


def _rank(part: object) -> tuple[int, float, str]:
    if part is None:
        return 0, 0.0, ""
    return (1, float(part), "") if isinstance(part, int | float) else (2, 0.0, str(part))


def _single(keys: tuple[Key, Key], candidates: Sequence[Row], query: Query) -> Row:
    first = candidates[0]
    if len({row["run_id"] for row in candidates}) == 1:
        return first
    if is_reference(first) and len({row["value"] for row in candidates}) == 1:
        return first
    differing = differing_fields(candidates, query.shown) or ["run_id"]
    named = "; ".join(f"{field}: {values_text(candidates, field, most=4)}" for field in differing[:4])
    labels = zip(query.shown, (*keys[0], *keys[1]), strict=True)
    cell = ", ".join(f"{field}={text(value)}" for field, value in labels)
    raise InputError(
        f"{len(candidates)} runs fall into the cell {cell} and differ in {named}; choose one "
        f"(--where {differing[0]}={text(value_of(first, differing[0]))}) or show it "
        f"(add {differing[0]} to {query.options})"
    )


def differing_fields(rows: Sequence[Row], shown: Sequence[str] = ()) -> list[str]:
    """What makes these runs different experiments: recorded columns, else configuration fields, else where they ran."""
    columns = [name for name in rows[0] if name not in _NOT_DETERMINANT]
    paths = sorted({path for row in rows for path in config_paths(row["config"])})
    leaves = [path for path in paths if not any(isinstance(value_of(row, path), Mapping) for row in rows)]
    for fields in (columns, [path for path in leaves if path not in columns], list(INCIDENTAL)):
        differing = [f for f in fields if len({text(value_of(row, f)) for row in rows}) > 1 and f not in shown]
        if differing:
            return differing
    return []
