"""Putting the files of many runs into two, ``runs.parquet`` and ``samples.parquet``, while other jobs go on writing.

Nothing is deleted before both files are on the disk, and then only files that have not changed since they were read. A
job killed at any point leaves every run readable: a run's own files win over its compacted rows.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from quantbench.errors import InputError
from quantbench.store.files import (
    locked,
    one_line,
    prepare_folder,
    replace,
    reported,
    sync_folder,
    temporary,
    write_synced,
)
from quantbench.store.record import RUN_SCHEMA, SAMPLES_SCHEMA, has_schema, with_schema
from quantbench.store.tables import Stamp, read_run_file, rows_of, stamp, stored_ids, without

_log = logging.getLogger(__name__)

RUNS, SAMPLES = "runs.parquet", "samples.parquet"
_BATCH_BYTES = 256 * 2**20  # of rows and samples held in memory at once
_GROUP_ROWS = 2**16
_DICTIONARY_BYTES = 2**26  # the configurations of a row group's runs
_ATTEMPTS = 5


@dataclass(frozen=True)
class _Loose:
    """A run's own files, as they were read."""

    run_path: Path
    samples_path: Path
    stamp: Stamp
    run: pa.Table
    samples: pa.Table

    @property
    def run_id(self) -> str:
        return self.run_path.stem


def compact(root: Path) -> int:
    """Move all runs that have files of their own into the two files; returns how many were moved.

    Raises:
        InputError: the disk refuses, the file system has no locks, or a compacted file is damaged.
    """
    moved = 0
    with reported(f"compact {root}"):
        for folder in (root, root / "runs", root / "samples"):
            prepare_folder(folder)
        skipped: set[Path] = set()
        while batch := _read_batch(root, skipped):
            skipped |= {loose.run_path for loose in batch}  # one that changes meanwhile waits for the next compaction
            moved += _move(root, batch)
        _remove_leftovers(root)
    return moved


def _move(root: Path, batch: list[_Loose]) -> int:
    runs, samples = root / RUNS, root / SAMPLES
    for _ in range(_ATTEMPTS):
        before = (stamp(runs), stamp(samples))
        with temporary(runs) as new_runs, temporary(samples) as new_samples:
            _merge(runs, [loose.run for loose in batch], batch, new_runs, RUN_SCHEMA)
            _merge(samples, [loose.samples for loose in batch], batch, new_samples, SAMPLES_SCHEMA)
            with locked(root / "runs") as held:
                if not held:
                    raise InputError(f"{root}: this file system has no locks; compact a copy on a local disk")
                if (stamp(runs), stamp(samples)) != before:
                    continue  # another compaction was faster: start from what it left
                # Samples first: until the run's own file goes, its own samples count.
                replace(new_samples, samples)
                replace(new_runs, runs)
                return _remove(batch)
    raise InputError(f"{root}: other compactions are running; try again when they are done")


def _remove(batch: list[_Loose]) -> int:
    """Delete what was moved, and leave what another job has replaced since; the caller holds the lock."""
    unchanged = [loose for loose in batch if stamp(loose.run_path) == loose.stamp]
    for loose in unchanged:
        loose.run_path.unlink()
    sync_folder(batch[0].run_path.parent)
    for loose in unchanged:
        loose.samples_path.unlink(missing_ok=True)
    sync_folder(batch[0].samples_path.parent)
    return len(unchanged)


def _remove_leftovers(root: Path) -> None:
    """Delete samples that a killed compaction has moved without deleting them."""
    with locked(root / "runs"):
        for path in (root / "samples").glob("*.parquet"):
            if path.stem in stored_ids(root / RUNS) and not (root / "runs" / path.name).exists():
                with suppress(pa.ArrowException, OSError):
                    if pq.read_table(path).equals(rows_of(root / SAMPLES, path.stem, SAMPLES_SCHEMA)):
                        path.unlink()


def _read_batch(root: Path, skipped: set[Path]) -> list[_Loose]:
    """As many of the runs that have files of their own as fit into memory."""
    batch: list[_Loose] = []
    size = 0
    for path in sorted((root / "runs").glob("*.parquet")):
        if path in skipped:
            continue
        loose = _read_loose(path, root / "samples" / path.name)
        if loose is None:
            skipped.add(path)
            continue
        batch.append(loose)
        size += loose.run.nbytes + loose.samples.nbytes
        if size > _BATCH_BYTES:
            break
    return batch


def _read_loose(path: Path, samples_path: Path) -> _Loose | None:
    """A run and the samples that belong to it; None for a file to leave alone."""
    found = stamp(path)
    run, problem = read_run_file(path)
    try:
        if run is not None and pc.unique(run["run_id"]).to_pylist() != [path.stem]:
            run, problem = None, "it holds another run"
        samples = None if run is None else pq.ParquetFile(samples_path).read(use_threads=False).cast(SAMPLES_SCHEMA)
    except (pa.ArrowException, OSError, ValueError) as error:
        samples, problem = None, f"{samples_path}: {one_line(error)}"
    if stamp(path) != found:  # replaced while it was read
        return None
    if found is None or run is None or samples is None:
        if problem:
            _log.warning("warning: left %s as it is: %s", path, problem)
        return None
    return _Loose(path, samples_path, found, run, samples)


def _merge(old: Path, tables: list[pa.Table], batch: list[_Loose], new: Path, schema: pa.Schema) -> None:
    """Write the rows of the old file and of the tables, sorted by run, a piece at a time; a batch's run wins."""
    replaced = [loose.run_id for loose in batch]
    # Row order within a run is kept: the sort is stable.
    added = pa.concat_tables(tables).cast(schema).sort_by("run_id")
    try:
        write_synced(new, lambda file: write_sorted(file, _merged(old, added, replaced, schema), schema))
    except pa.ArrowInvalid as error:
        raise InputError(f"{old}: {one_line(error)}; move it away and compact again") from error


def _merged(old: Path, added: pa.Table, replaced: list[str], schema: pa.Schema) -> Iterator[pa.Table]:
    if old.is_file():
        with pq.ParquetFile(old) as file:
            if not has_schema(file.schema_arrow.names, schema):
                raise pa.ArrowInvalid("not a file of this store's schema")
            for number in range(file.num_row_groups):
                piece = without(with_schema(file.read_row_group(number), schema), replaced)
                if len(piece):
                    before = pc.sum(pc.less_equal(added["run_id"], piece["run_id"][-1])).as_py() or 0
                    yield pa.concat_tables([piece, added.slice(0, before)]).sort_by("run_id")
                    added = added.slice(before)
    yield added


def write_sorted(file: object, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
    """Write tables as one parquet file in row groups of a fixed size, so that equal contents are equal bytes."""
    options = {"compression": "zstd", "dictionary_pagesize_limit": _DICTIONARY_BYTES}
    with pq.ParquetWriter(file, schema, **options) as writer:
        waiting = schema.empty_table()
        for table in tables:
            waiting = pa.concat_tables([waiting, table])
            whole = len(waiting) - len(waiting) % _GROUP_ROWS
            if whole:
                writer.write_table(waiting.slice(0, whole), row_group_size=_GROUP_ROWS)
                waiting = waiting.slice(whole)
        if len(waiting):
            writer.write_table(waiting, row_group_size=_GROUP_ROWS)
