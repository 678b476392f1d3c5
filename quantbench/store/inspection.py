"""What an inspection writes: a row for each matrix before and after the transform, and what was inspected."""

import json
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from quantbench.errors import InputError
from quantbench.store.files import one_line, replace, reported, temporary, write_table

FILE = "inspection.parquet"
OUTLIER_RATIOS = (6, 20)
HISTOGRAM_BINS = 64
CODE_BINS, CODE_RANGE = 96, (-0.25, 1.25)
WEIGHT, INPUT = "weight", "input"
BEFORE, AFTER = "before", "after"
_METADATA = b"quantbench.inspection"


def _column(doc: str, **default: Any) -> Any:
    return field(metadata={"doc": doc}, **default)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The distribution of a matrix's values [rows, channels]."""

    rows: int = _column("output channels of a weight; tokens of an input")
    channels: int = _column("input channels")
    absmax: float | None = _column("largest magnitude", default=None)
    rms: float | None = _column("root mean square", default=None)
    mean: float | None = _column("mean", default=None)
    kurtosis: float | None = _column("fourth central moment over squared variance; 3 for a Gaussian", default=None)
    row_ratio: float | None = _column("largest over median row, by largest magnitude (rows: tokens)", default=None)
    channel_ratio: float | None = _column("largest over median channel, by largest magnitude", default=None)
    channels_over_6: int | None = _column("channels whose largest magnitude exceeds 6 x the median's", default=None)
    channels_over_20: int | None = _column("channels whose largest magnitude exceeds 20 x the median's", default=None)
    outlier_channels: list[int] = field(
        default_factory=list, metadata={"doc": "those over 6, the largest first, 32 at most"}
    )
    outlier_ratios: list[float] = field(
        default_factory=list, metadata={"doc": "their largest magnitude over the median's"}
    )
    histogram: list[float] = field(
        default_factory=list,
        metadata={"doc": "share of values in 64 bins of [-1, 1], each group divided by its largest magnitude"},
    )


@dataclass(frozen=True, kw_only=True)
class CodeUse:
    """What quantizing made of a matrix's values; nothing of it before the transform, or where nothing is quantized."""

    code_counts: list[int] = field(default_factory=list, metadata={"doc": "values that got each code, by code"})
    code_points: list[float] = field(
        default_factory=list,
        metadata={"doc": "code points from the lowest (0) to the highest (1) of a group, mean over groups"},
    )
    code_histogram: list[float] = field(
        default_factory=list,
        metadata={
            "doc": "share of full-precision values in 96 bins of [-0.25, 1.25] on the axis of code_points; "
            "the ends hold the rest"
        },
    )
    codes_used: int | None = _column("codes that any value got", default=None)
    code_entropy: float | None = _column("entropy of the codes in bits", default=None)
    clipped: float | None = _column("share of values over half a step beyond the outermost code points", default=None)
    distance: float | None = _column("mean distance to the nearest code point, in mean steps", default=None)
    nearest_error: float | None = _column("relative squared error if every value got its nearest code", default=None)
    moved: float | None = _column("share of values that got another code than the nearest", default=None)


@dataclass(frozen=True, kw_only=True)
class Errors:
    """What quantizing one linear costs; of weights after the transform alone."""

    weight_error: float | None = _column("||Q - W||^2 / ||W||^2 of the linear", default=None)
    output_error: float | None = _column(
        "the same of its outputs, on inputs in full precision, which are quantized too where the run does", default=None
    )
    kl: float | None = _column("KL divergence of the model's predictions, only this linear quantized", default=None)
    fisher: float | None = _column("sum of squared weight changes times squared gradients of the loss", default=None)


@dataclass(frozen=True, kw_only=True)
class InspectedRow(Shape, CodeUse, Errors):
    """One matrix: a linear's weight, or the input that linears share, before or after the transform."""

    block: int = _column("decoder block")
    name: str = _column("full name of the linear; of an input, of the first linear that reads it")
    kind: str = _column("the name within its block, experts under one name")
    site: str = _column("name of the row of the linear's input")
    what: str = _column("weight or input")
    stage: str = _column("before: the model as it is; after: transformed, what is quantized")


@dataclass(frozen=True)
class Inspection:
    """What was inspected (title, model, configuration, calibration ...: plain values) and what was found."""

    subject: Mapping[str, Any]
    rows: Sequence[InspectedRow]

    def select(self, what: str, stage: str) -> dict[str, InspectedRow]:
        """Rows of one kind by name, in the order of the model."""
        return {row.name: row for row in self.rows if (row.what, row.stage) == (what, stage)}

    @property
    def transformed(self) -> bool:
        """Whether the transform changed any matrix."""
        return bool(self.subject["transformed"])


def columns() -> dict[str, str]:
    """Every column and what it means."""
    return {item.name: item.metadata["doc"] for item in fields(InspectedRow)}


def write(folder: Path, inspection: Inspection) -> Path:
    """Store an inspection, whole or not at all; an older one there is replaced.

    Raises:
        InputError: the disk refuses.
    """
    metadata = {_METADATA: json.dumps(inspection.subject, sort_keys=True)}
    table = pa.Table.from_pylist([asdict(row) for row in inspection.rows], schema=_schema())
    path = folder / FILE
    with reported(f"write {path}"):
        folder.mkdir(parents=True, exist_ok=True)
        with temporary(path) as new:
            write_table(table.replace_schema_metadata(metadata), new)
            replace(new, path)
    return path


def read(folder: Path) -> Inspection:
    """What :func:`write` stored in a folder.

    Raises:
        InputError: nothing there, or no inspection.
    """
    path = folder / FILE
    if not path.is_file():
        raise InputError(f"no inspection in {folder}: {FILE} is missing")
    try:
        table = pq.read_table(path)
        subject = json.loads((table.schema.metadata or {})[_METADATA])
        rows = [InspectedRow(**row) for row in table.cast(_schema()).to_pylist()]
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise InputError(f"{path}: no inspection of this version ({one_line(error)})") from error
    return Inspection(subject, rows)


def _schema() -> pa.Schema:
    hints = typing.get_type_hints(InspectedRow)
    return pa.schema([_field(item.name, hints[item.name]) for item in fields(InspectedRow)])


def _field(name: str, hint: Any) -> pa.Field:
    kinds = {int: pa.int64(), float: pa.float64(), str: pa.string()}
    if typing.get_origin(hint) is list:
        return pa.field(name, pa.list_(kinds[typing.get_args(hint)[0]]), nullable=False)
    if isinstance(hint, types.UnionType):
        return pa.field(name, kinds[typing.get_args(hint)[0]])
    return pa.field(name, kinds[hint], nullable=False)
