"""From stored rows to the cells of one table, refusing what cannot be compared."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import TYPE_CHECKING, Any

from quantbench.curves import DIAGNOSTICS
from quantbench.errors import InputError
from quantbench.report.numbers import text

if TYPE_CHECKING:
    import pandas as pd

Row = Mapping[str, Any]
Key = tuple[object, ...]
Fields = tuple[str, ...]

FULL_PRECISION = "fp16"

# (field, fields within which it must be constant). Perplexity and its kin are measured in the windows of a protocol,
# whose token ids depend on the model's tokenizer; accuracy does not know the protocol.
_EVERYWHERE: tuple[tuple[str, Fields], ...] = (
    ("metric", ()),
    ("task", ()),
    ("model", ()),
    ("dtype", ()),
    ("model_revision", ("model",)),
)
_IN_WINDOWS: tuple[tuple[str, Fields], ...] = (
    ("protocol", ()),
    ("corpus", ()),
    ("evaluation_hash", ("model", "protocol", "corpus")),
)
_IN_ITEMS: tuple[tuple[str, Fields], ...] = (("evaluation.num_fewshot", ("task",)), ("count", ("task",)))


@dataclass(frozen=True)
class Query:
    """What to tabulate: fields of rows and columns, metrics, task, and conditions ``(field, allowed text)``.

    options: the command's options that show a field, for messages; groups: how many leading row fields head groups of
    rows; mix: fields in which cells may differ although the table does not show them.
    """

    rows: Fields
    cols: Fields
    metrics: Fields
    task: str | None = None
    where: tuple[tuple[str, str], ...] = ()
    options: str = "--rows or --cols"
    groups: int = 0
    mix: Fields = ()

    @property
    def shown(self) -> Fields:
        """Fields that the table shows, so that they may vary in it."""
        return self.rows + self.cols


def is_reference(row: Row) -> bool:
    """Whether nothing was quantized, whatever preset the run started from (method=fp16 rounding=gptq is GPTQ)."""
    return row["bits"] is None


def in_windows(row: Row) -> bool:
    """Whether the row was measured on the windows of the corpus, and not on the items of a task."""
    return bool(row["task"] == row["corpus"]) and not is_diagnostic(row)


def is_diagnostic(row: Row) -> bool:
    """Whether the row says what was done to the model (its layers' errors, its training) or where its time goes, and
    not how well it does."""
    return row["metric"] in DIAGNOSTICS


def value_of(row: Row, field: str) -> Any:
    """A recorded column, or a dotted field of the run's configuration (None where the run has no such field)."""
    if field in row and field != "config":
        return row[field]
    value: Any = row["config"]
    for part in field.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def select(frame: "pd.DataFrame", query: Query, *, also: Sequence[str] = ()) -> list[Row]:
    """Rows that the query asks for, with the configuration parsed; ``also``: other fields that will be read from them.

    Raises:
        InputError: unknown field, condition that nothing meets, metric or task that was not measured.
    """
    measured = set(frame["metric"].unique())
    for metric in query.metrics:
        if metric not in measured:
            raise InputError(f"metric {metric!r} is not stored; available: {', '.join(sorted(measured))}")
    everything = frame = frame[frame["metric"].isin(query.metrics or measured)]
    # Recorded columns first, while there are many rows; what they leave is looked at row by row.
    for field, wanted in query.where:
        if _is_column(frame, field):
            frame = _narrow(frame, field, wanted)
    rows = _parse(frame)
    for field in (*query.shown, *(field for field, _ in query.where), *also):
        _check_field(rows, field, everything)
    for field, wanted in query.where:
        if not _is_column(frame, field):
            if not any(_matches(value_of(row, field), wanted) for row in rows):
                raise InputError(f"no stored run has {field}={wanted}; stored: {values_text(rows, field)}")
            rows = [row for row in rows if _meets(row, field, wanted)]
    if query.task is not None:
        kept = [row for row in rows if row["task"] == query.task]
        if not kept:
            raise InputError(
                f"task {query.task!r} is not stored for this metric; available: {values_text(rows, 'task')}"
            )
        rows = kept
    return rows


def _is_column(frame: "pd.DataFrame", field: str) -> bool:
    return field in frame.columns and field != "config"


def _narrow(frame: "pd.DataFrame", field: str, wanted: str) -> "pd.DataFrame":
    """The rows that have the value, and full precision where it has none (bits=4)."""
    column = frame[field]
    accepted = [value for value in column.dropna().unique().tolist() if _matches(value, wanted)]
    if not accepted and not (column.isna().any() and _matches(None, wanted)):
        rows = _parse(frame.drop_duplicates(field))
        raise InputError(f"no stored run has {field}={wanted}; stored: {values_text(rows, field)}")
    absent = column.isna() & (frame["bits"].isna() | _matches(None, wanted))
    return frame[column.isin(accepted) | absent]


class _Config(Mapping[str, Any]):
    """A run's configuration, parsed when something of it is asked for: a store has many, a table needs few."""

    def __init__(self, text: str) -> None:
        self._text = text

    @cached_property
    def _content(self) -> dict[str, Any]:
        return dict(json.loads(self._text))

    def __getitem__(self, name: str) -> Any:
        return self._content[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)


def _parse(frame: "pd.DataFrame") -> list[Row]:
    columns: dict[str, list[Any]] = {}
    for name in map(str, frame.columns):
        values = frame[name].astype(object)
        # A stored value that is not a number is a result (a model that broke); elsewhere missing is missing.
        columns[name] = (values if name == "value" else values.where(frame[name].notna(), None)).tolist()
    configs = {text: _Config(text) for text in set(columns["config"])}
    columns["config"] = [configs[text] for text in columns["config"]]
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _check_field(rows: Sequence[Row], field: str, frame: "pd.DataFrame") -> None:
    """Refuse a field that no stored run has, be it among the selected rows or not."""
    if _is_column(frame, field) or any(value_of(row, field) is not None for row in rows):
        return
    known = [str(name) for name in frame.columns if name != "config"]
    paths = {path for text in frame["config"].unique() for path in config_paths(json.loads(text))}
    if field in paths:
        return
    close = get_close_matches(field, [*known, *paths], n=1)
    allowed = f"did you mean {close[0]}?" if close else f"recorded are {', '.join(known)} and configuration fields"
    raise InputError(f"unknown field {field!r}: {allowed}")


def config_paths(config: Mapping[str, Any], prefix: str = "") -> Iterable[str]:
    """Dotted names of all fields of a configuration."""
    for name, value in config.items():
        yield prefix + name
        if isinstance(value, Mapping):
            yield from config_paths(value, f"{prefix}{name}.")


def _meets(row: Row, field: str, wanted: str) -> bool:
    """Whether the row has the value; full precision stays as the reference where it has none (bits=4)."""
    value = value_of(row, field)
    return _matches(value, wanted) or (value is None and is_reference(row))


def _matches(value: object, wanted: str) -> bool:
    options = [wanted, *wanted.split(",")]
    if text(value).lower() in (option.lower() for option in options):
        return True
    return isinstance(value, float) and any(_is_number(option, value) for option in options)


def _is_number(option: str, value: float) -> bool:
    try:
        return float(option) == value
    except ValueError:
        return False


def values_text(rows: Sequence[Row], field: str, *, most: int = 8) -> str:
    """The different values of a field, for a message."""
    values = sorted({text(value_of(row, field)) for row in rows})
    return ", ".join(values[:most]) + (" ..." if len(values) > most else "")


def check_comparable(rows: Sequence[Row], query: Query) -> None:
    """Refuse a table whose cells were not measured in the same way.

    Raises:
        InputError: metrics, tasks, models, dtypes, protocols, corpora, windows or few-shot counts are mixed along a
            field that the table does not show, and that it was not told to mix.
    """
    for field, group, values in mixed(rows, (*query.shown, *query.mix)):
        first = min(values)
        where = " for " + ", ".join(map(str, group)) if group else ""
        choice = f"--{field} {first}" if field in ("task", "metric") else f"--where {field}={first}"
        raise InputError(
            f"this would mix {field}{where}: {', '.join(sorted(values))}; choose one ({choice}) "
            f"or show it (add {field} to {query.options})"
        )


def check_statistics(rows: Sequence[Row], query: Query) -> None:
    """Refuse methods calibrated on full-precision activations beside methods calibrated on quantized ones.

    Raises:
        InputError: both modes, not shown and not allowed.
    """
    modes = {row["statistics"] for row in rows} - {"none"}
    if len(modes) > 1 and "statistics" not in (*query.shown, *query.mix):
        raise InputError(
            f"this would mix statistics: {', '.join(sorted(modes))}; choose one "
            f"(--where statistics={min(modes)},none) or show it (add statistics to {query.options})"
        )


def mixed(rows: Sequence[Row], shown: Sequence[str] = ()) -> Iterator[tuple[str, Key, set[str]]]:
    """Fields in which the rows were not measured in the same way: the field, the group within which, the values."""
    windows = [row for row in rows if in_windows(row)]
    items = [row for row in rows if not in_windows(row) and not is_diagnostic(row)]
    for part, checks in ((rows, _EVERYWHERE), (windows, _IN_WINDOWS), (items, _IN_ITEMS)):
        for field, within in checks:
            if field in shown:
                continue
            groups: dict[Key, set[str]] = {}
            for row in part:
                groups.setdefault(key_of(row, within), set()).add(text(value_of(row, field)))
            yield from ((field, group, values) for group, values in groups.items() if len(values) > 1)


def key_of(row: Row, fields: Sequence[str]) -> Key:
    """Values of the fields, as a key of rows, columns or groups."""
    return tuple(_hashable(value_of(row, field)) for field in fields)


def _hashable(value: object) -> object:
    return value if isinstance(value, str | int | float | None) else json.dumps(value, sort_keys=True)
