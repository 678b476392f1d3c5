"""Reading the tables of a store: one run's own files, and those that compaction put together."""

from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from quantbench.store.files import one_line
from quantbench.store.record import RUN_SCHEMA, SAMPLES_SCHEMA, SCHEMA_VERSION, has_schema, with_schema

if TYPE_CHECKING:
    import pandas as pd

Stamp = tuple[int, int, int]

# Every row repeats its run's identity: read as dictionaries, each text is kept once.
_MANY_ROWS = 10_000
_FOREIGN = f"not a run file of schema version {SCHEMA_VERSION}"
_TEXTS = [column.name for column in RUN_SCHEMA if column.type == pa.string()]


def stamp(path: Path) -> Stamp | None:
    """What changes when the file is replaced; None without a file."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def read_run_file(path: Path, metrics: Collection[str] = ()) -> tuple[pa.Table | None, str]:
    """The rows of the metrics (of all if none are given), or None and what is wrong with the file.

    Nothing is wrong with a samples file beside the runs, and with one that compaction has just put elsewhere.
    """
    try:
        # One file at a time: a dataset over many small files measured slower, and one bad file stops it.
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if names == SAMPLES_SCHEMA.names:
                return None, ""
            if not has_schema(names, RUN_SCHEMA):
                return None, _FOREIGN
            table = _read_rows(path, file, metrics)
        if len(table) and pc.unique(table["schema_version"]).to_pylist() != [SCHEMA_VERSION]:
            return None, _FOREIGN
        return with_schema(table, RUN_SCHEMA), ""
    except FileNotFoundError:
        return None, ""
    except (pa.ArrowException, OSError, ValueError) as error:
        return None, one_line(error)


def _read_rows(path: Path, file: pq.ParquetFile, metrics: Collection[str]) -> pa.Table:
    if file.metadata.num_rows < _MANY_ROWS:
        return _of_metrics(file.read(use_threads=False), metrics)
    with pq.ParquetFile(path, metadata=file.metadata, read_dictionary=_TEXTS) as many:
        groups = [_of_metrics(many.read_row_group(number), metrics) for number in range(many.num_row_groups)]
    return pa.concat_tables(groups)


def _of_metrics(table: pa.Table, metrics: Collection[str]) -> pa.Table:
    if not metrics:
        return table
    return table.filter(pc.is_in(table["metric"].cast(pa.string()), pa.array(sorted(metrics))))


def stored_ids(path: Path) -> frozenset[str]:
    """Ids of the runs in a compacted file; none where it is missing or damaged."""
    found = stamp(path)
    try:
        return frozenset() if found is None else _ids(path, found)
    except (pa.ArrowException, OSError, ValueError):
        return frozenset()


@lru_cache(maxsize=4)  # a sweep asks for each of its runs
def _ids(path: Path, _: Stamp) -> frozenset[str]:
    column = pq.read_table(path, columns=["run_id"], read_dictionary=["run_id"])["run_id"]
    return frozenset(pc.unique(column).to_pylist())


def rows_of(path: Path, run_id: str, schema: pa.Schema) -> pa.Table:
    """One run's rows of a compacted file, which is sorted by run, so that little of it is read.

    Raises:
        OSError, pyarrow.ArrowException: the file is missing, damaged or of another schema.
    """
    return with_schema(pq.read_table(path, filters=[("run_id", "=", run_id)]), schema)


def without(table: pa.Table, ids: Collection[str]) -> pa.Table:
    """The rows of other runs."""
    if not ids:
        return table
    return table.filter(pc.invert(pc.is_in(table["run_id"], pa.array(sorted(ids), pa.string()))))


def to_frame(table: pa.Table) -> "pd.DataFrame":
    """The table as pandas has it."""
    import pandas as pd

    # numpy has no missing integer: bits=4 must not become 4.0 because full precision has none.
    nullable = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
    return table.to_pandas(types_mapper=nullable.get)
