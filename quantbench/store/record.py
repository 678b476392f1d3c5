"""The record: one row per (run, metric, task), each carrying the whole identity of its run."""

import json
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import pyarrow as pa

from quantbench.axes import YOUNG_AXES
from quantbench.measurement import Measurement

SCHEMA_VERSION = 1

_ARROW_TYPES: Mapping[type, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
}
_RUN_ID = re.compile(r"[0-9A-Za-z_-]{1,128}")
_JSON_COLUMNS = ("config", "versions", "seconds", "peak_memory", "notes")


def check_run_id(run_id: str) -> None:
    """Refuse an id that cannot be a file name, or whose file would lie outside the store."""
    if not _RUN_ID.fullmatch(run_id):
        raise ValueError(f"run_id={run_id!r}: letters, digits, - and _ are allowed, 128 at most")


def _column(doc: str) -> Any:
    return field(metadata={"doc": doc})


@dataclass(frozen=True, kw_only=True)
class RunIdentity:
    """Everything that says which run a number belongs to; each field is a column of the run file.

    Raises:
        ValueError: a run id that cannot be a file name, or a JSON column that does not parse.
    """

    run_id: str = _column("hash of everything that determines the result; the name of the run's files")
    method: str = _column("method preset, e.g. gptq; fp16 is full precision")
    variant: str = _column("choices and hyperparameters changed on top of the preset, empty when none")
    format: str = _column("axis: the set of representable values")
    range: str = _column("axis: how scale and zero-point are fitted")
    transform: str = _column("axis: function-preserving rewrite before rounding")
    rounding: str = _column("axis: which code each weight gets")
    allocation: str = _column("axis: where the bits go")
    activation: str = _column("axis: what is quantized at run time")
    kv_cache: str = _column("axis: how keys and values of past tokens are stored")
    training: str = _column("axis: whether the whole model is trained with its quantization in the loop")
    bits: int | None = _column("nominal bits of a weight's code; 16 for weights that stay; null in full precision")
    activation_bits: int = _column("nominal bits of a linear's input; 16 where it is not quantized")
    kv_bits: int = _column("nominal bits of a key or value; 16 where they are not quantized")
    group_size: int | None = _column("input columns that share a scale; null is the whole row")
    symmetric: bool | None = _column("no zero-point; null when nothing is quantized")
    statistics: str = _column("what calibration saw: fp (full-precision), propagate (quantized prefix) or none")
    bits_per_weight: float = _column("true bits per quantized weight: codes, scales, zero-points, outliers, codebooks")
    quantized_bytes: int = _column("bytes of the quantized linears as packed")
    model_bytes: int = _column("bytes of the whole model, quantized linears packed, the rest at 16 bits")
    model: str = _column("model name")
    model_revision: str = _column("commit on the Hub, or content hash of local files")
    protocol: str = _column("perplexity protocol")
    corpus: str = _column("text that perplexity and divergence are measured on")
    evaluation_hash: str = _column("hash of the evaluated token ids, windows and targets")
    calibration: str | None = _column("calibration set; null when the method needs none")
    num_samples: int | None = _column("calibration sequences")
    seqlen: int | None = _column("tokens of a calibration sequence")
    calibration_hash: str | None = _column("hash of the calibration token ids")
    contaminated: bool = _column("calibrated on the corpus that is evaluated")
    seed: int = _column("seed of everything random in the run")
    dtype: str = _column("dtype of the model's unquantized arithmetic, of the baseline too")
    device: str = _column("accelerator or CPU that ran it")
    config: str = _column("resolved configuration, JSON")
    versions: str = _column("versions of Python and the libraries, JSON")
    git_commit: str | None = _column("commit of the code; null outside a checkout")
    git_dirty: bool | None = _column("code differed from the commit")
    created: str = _column("when the run ended, UTC, ISO 8601")
    seconds: str = _column("wall-clock seconds by stage, JSON")
    peak_memory: str = _column("peak bytes by stage and place (host, device), JSON")
    notes: str = _column("what was handled or needs saying (dead columns, re-damping ...), JSON list")
    schema_version: int = field(default=SCHEMA_VERSION, metadata={"doc": "version of this schema"})

    def __post_init__(self) -> None:
        check_run_id(self.run_id)
        for name in _JSON_COLUMNS:
            json.loads(getattr(self, name))


def as_dict(identity: RunIdentity) -> dict[str, Any]:
    """The columns by name, with those that hold JSON parsed."""
    row = asdict(identity)
    return row | {name: json.loads(row[name]) for name in _JSON_COLUMNS}


_MEASUREMENT_COLUMNS: Mapping[str, tuple[pa.DataType, bool, str]] = {
    "metric": (pa.string(), False, "what was measured: perplexity, kl_divergence, acc, flips ..."),
    "task": (pa.string(), False, "corpus or lm-eval task it was measured on; layers for errors of single linears"),
    "value": (pa.float64(), False, "the measured value"),
    "unit": (pa.string(), False, "unit of value, stderr, ci_low, ci_high and baseline"),
    "stderr": (pa.float64(), True, "standard error of value"),
    "ci_low": (pa.float64(), True, "lower end of the 95 % confidence interval"),
    "ci_high": (pa.float64(), True, "upper end of the 95 % confidence interval"),
    "count": (pa.int64(), False, "samples (windows, documents or items) behind value"),
    "baseline": (pa.float64(), True, "the full-precision model's value"),
    "higher_is_better": (pa.bool_(), False, "direction of the metric"),
}
_SAMPLE_COLUMNS: Mapping[str, tuple[pa.DataType, bool, str]] = {
    "run_id": (pa.string(), False, "run the sample belongs to"),
    "metric": (pa.string(), False, "metric the sample belongs to"),
    "task": (pa.string(), False, "corpus or task the sample belongs to"),
    "index": (pa.int64(), False, "position in the measurement's fixed order"),
    "key": (pa.string(), False, "stable name of the window, document, item or linear; pairs runs"),
    "value": (pa.float64(), False, "value on this sample (mean NLL in nats for perplexity)"),
    "weight": (pa.float64(), False, "targets the value averages over; 1 for an item, elements of a linear"),
    "baseline": (pa.float64(), True, "the full-precision model's value on this sample"),
}


def _identity_fields() -> list[pa.Field]:
    hints, columns = typing.get_type_hints(RunIdentity), []
    for item in fields(RunIdentity):
        hint = hints[item.name]
        nullable = isinstance(hint, types.UnionType)
        kind = next(part for part in typing.get_args(hint) if part is not type(None)) if nullable else hint
        columns.append(pa.field(item.name, _ARROW_TYPES[kind], nullable=nullable))
    return columns


def _fields(columns: Mapping[str, tuple[pa.DataType, bool, str]]) -> list[pa.Field]:
    return [pa.field(name, kind, nullable=nullable) for name, (kind, nullable, _) in columns.items()]


RUN_SCHEMA = pa.schema(_identity_fields() + _fields(_MEASUREMENT_COLUMNS))
SAMPLES_SCHEMA = pa.schema(_fields(_SAMPLE_COLUMNS))


# Columns that are younger than many files, and what a file without them means.
_YOUNG_COLUMNS: Mapping[str, str | int] = {**YOUNG_AXES, "activation_bits": 16, "kv_bits": 16}


def has_schema(names: Sequence[str], schema: pa.Schema) -> bool:
    """Whether a file with these columns holds a table of the schema, perhaps of before its youngest columns."""
    return [name for name in schema.names if name in names or name not in _YOUNG_COLUMNS] == list(names)


def with_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table under the schema, the youngest columns added where it lacks them.

    Raises:
        pyarrow.ArrowException, ValueError: it has other columns, or values that do not fit.
    """
    for place, column in enumerate(schema):
        if column.name in _YOUNG_COLUMNS and column.name not in table.column_names:
            values = pa.repeat(pa.scalar(_YOUNG_COLUMNS[column.name], column.type), len(table))
            table = table.add_column(place, column, values)
    return table.cast(schema)


def columns() -> dict[str, str]:
    """Every column of the run file and what it means."""
    identity = {item.name: item.metadata["doc"] for item in fields(RunIdentity)}
    return identity | {name: doc for name, (_, _, doc) in _MEASUREMENT_COLUMNS.items()}


def run_table(identity: RunIdentity, measurements: Sequence[Measurement]) -> pa.Table:
    """One row per measurement under RUN_SCHEMA.

    Raises:
        ValueError: no measurements, or two of the same metric and task.
    """
    keys = {(item.metric, item.task) for item in measurements}
    if not measurements or len(keys) < len(measurements):
        raise ValueError("a run needs at least one measurement, and one at most for each metric and task")
    shared = asdict(identity)
    rows = [shared | {name: getattr(item, name) for name in _MEASUREMENT_COLUMNS} for item in measurements]
    return pa.Table.from_pylist(rows, schema=RUN_SCHEMA)


def samples_table(run_id: str, measurements: Sequence[Measurement]) -> pa.Table:
    """One row per sample of every measurement that kept its samples, under SAMPLES_SCHEMA."""
    parts = [SAMPLES_SCHEMA.empty_table()]
    for item in measurements:
        if item.samples is None:
            continue
        count, samples = len(item.samples.keys), item.samples
        columns = {
            "run_id": [run_id] * count,
            "metric": [item.metric] * count,
            "task": [item.task] * count,
            "index": range(count),
            "key": samples.keys,
            "value": samples.values,
            "weight": samples.weights,
            "baseline": [None] * count if samples.baseline is None else samples.baseline,
        }
        arrays = [pa.array(columns[column.name], column.type) for column in SAMPLES_SCHEMA]
        parts.append(pa.Table.from_arrays(arrays, schema=SAMPLES_SCHEMA))
    return pa.concat_tables(parts)


def parse_run(table: pa.Table) -> tuple[RunIdentity, list[Measurement]]:
    """The identity and the measurements (without samples) of one run's rows: the inverse of ``run_table``."""
    rows = table.to_pylist()
    identity = RunIdentity(**{item.name: rows[0][item.name] for item in fields(RunIdentity)})
    return identity, [Measurement(**{name: row[name] for name in _MEASUREMENT_COLUMNS}) for row in rows]
