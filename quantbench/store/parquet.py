"""One parquet file per run, written so that a run is either complete or absent, and read all at once."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from quantbench.errors import InputError
from quantbench.measurement import Measurement
from quantbench.store import failures
from quantbench.store.claims import Claims
from quantbench.store.compaction import RUNS, SAMPLES, compact
from quantbench.store.failures import Failure
from quantbench.store.files import (
    locked,
    one_line,
    prepare_folder,
    replace,
    reported,
    sync_folder,
    temporary,
    write_table,
)
from quantbench.store.record import (
    RUN_SCHEMA,
    SAMPLES_SCHEMA,
    RunIdentity,
    parse_run,
    run_table,
    samples_table,
)
from quantbench.store.tables import read_run_file, rows_of, stored_ids, to_frame, without

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunPaths:
    """Files of one run: its rows and, per window and item, its samples."""

    run: Path
    samples: Path


class Store:
    """Runs below one folder: ``runs/<run_id>.parquet`` and ``samples/<run_id>.parquet``.

    A run exists when its run file exists. That file is the last thing written, so a job killed at any point leaves
    either the whole run or none. Jobs share the folder freely; two jobs writing the same run leave one job's pair.
    ``compact`` moves such pairs into ``runs.parquet`` and ``samples.parquet``; a pair wins over rows there.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.claims = Claims(self.root / "running")

    def paths(self, run_id: str) -> RunPaths:
        """Where the run's files are, or would be."""
        name = f"{run_id}.parquet"
        return RunPaths(run=self.root / "runs" / name, samples=self.root / "samples" / name)

    def exists(self, run_id: str) -> bool:
        """Whether the run is stored, complete."""
        return self.paths(run_id).run.is_file() or run_id in stored_ids(self.root / RUNS)

    def check_writable(self) -> None:
        """Create the folders, remove what dead jobs left, and write a probe: fail before the work, not after it.

        Raises:
            InputError: the folder cannot be created or written.
        """
        with reported(f"write results to {self.root}"):
            for folder in (self.root / "runs", self.root / "samples"):
                prepare_folder(folder)

    def write(self, identity: RunIdentity, measurements: Sequence[Measurement]) -> RunPaths:
        """Store the run, replacing an older result of the same run id.

        Raises:
            InputError: the disk refuses (full, read-only, no permission).
        """
        run, samples = run_table(identity, measurements), samples_table(identity.run_id, measurements)
        paths = self.paths(identity.run_id)
        self.check_writable()
        with (
            reported(f"write run {identity.run_id} to {self.root}"),
            temporary(paths.run) as new_run,
            temporary(paths.samples) as new_samples,
        ):
            write_table(samples, new_samples)
            write_table(run, new_run)
            # Another job's pair of files must not land between our two renames.
            with locked(self.root / "runs"):
                # An older run file must not stand beside newer samples, not even for a moment.
                paths.run.unlink(missing_ok=True)
                sync_folder(paths.run.parent)
                replace(new_samples, paths.samples)
                replace(new_run, paths.run)
                self._failure_path(identity.run_id).unlink(missing_ok=True)
        return paths

    def write_failure(self, failure: Failure) -> Path:
        """Keep why a run failed, until it succeeds; an older result of the same run stays.

        Raises:
            InputError: the disk refuses.
        """
        with reported(f"write the failure of run {failure.run_id} to {self.root}"):
            return failures.write(self.root / "failures", failure)

    def failures(self) -> list[Failure]:
        """Runs that failed and have no result."""
        found = failures.read_all(self.root / "failures")
        return [failure for failure in found if not self.exists(failure.run_id)]

    def _failure_path(self, run_id: str) -> Path:
        return self.root / "failures" / f"{run_id}.json"

    def read(self, run_id: str) -> tuple[RunIdentity, list[Measurement]]:
        """One stored run; its measurements come without samples.

        Raises:
            InputError: the run is not stored, or its file is damaged or of another schema.
        """
        path = self.paths(run_id).run
        table, problem = read_run_file(path)
        if table is None and not problem:
            table, problem = self._compacted(run_id, RUNS, RUN_SCHEMA)
        if table is None:
            raise InputError(f"{path}: {problem}; recompute it with force=true")
        return parse_run(table)

    def samples(self, run_id: str) -> "pd.DataFrame":
        """Samples of one stored run, columns of SAMPLES_SCHEMA.

        Raises:
            InputError: the samples are missing or damaged.
        """
        paths = self.paths(run_id)
        try:
            if paths.run.is_file():  # samples without a run file are left over from a write that was killed
                return to_frame(pq.read_table(paths.samples, schema=SAMPLES_SCHEMA))
        except FileNotFoundError:  # compaction has just moved them
            pass
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{paths.samples}: {one_line(error)}; recompute it with force=true") from error
        table, problem = self._compacted(run_id, SAMPLES, SAMPLES_SCHEMA)
        if table is None:
            raise InputError(f"{paths.samples}: {problem}; recompute it with force=true")
        return to_frame(table)

    def _compacted(self, run_id: str, name: str, schema: pa.Schema) -> tuple[pa.Table | None, str]:
        """The run's rows in a compacted file, or None and what is wrong."""
        if run_id not in stored_ids(self.root / RUNS):
            return None, "no such file, and the run is not in a compacted one"
        try:
            return rows_of(self.root / name, run_id, schema), ""
        except (pa.ArrowException, OSError) as error:
            return None, f"{self.root / name}: {one_line(error)}"

    def compact(self) -> int:
        """Put the runs' own files into ``runs.parquet`` and ``samples.parquet``; returns how many runs were moved.

        Raises:
            InputError: the disk refuses, the file system has no locks, or a compacted file is damaged.
        """
        return compact(self.root)

    def load(self) -> "pd.DataFrame":
        """Rows of every stored run: ``load(root)``."""
        return load(self.root)


def load(path: str | Path, *, metrics: Collection[str] = ()) -> "pd.DataFrame":
    """Rows of all runs at ``path``: a results folder, a folder of run files, or one parquet file. Columns: RUN_SCHEMA.

    metrics: read only rows of these, all if empty. A file that cannot be read or is not a run file is named in a
    warning; the others are read.

    Raises:
        InputError: nothing there, or no readable run.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"no results at {path}: give a results folder or a parquet file")
    # Runs' own files first: what compaction moves meanwhile is in the compacted file afterwards.
    tables = [table for file in _run_files(path) if (table := _read_or_warn(file, metrics)) is not None]
    ids = {run_id for table in tables for run_id in table["run_id"].unique().to_pylist()}
    if (compacted := path / RUNS).is_file() and (table := _read_or_warn(compacted, metrics)) is not None:
        tables.append(without(table, ids))
    if not tables:
        raise InputError(f"no stored runs in {path}")
    return to_frame(pa.concat_tables(tables).combine_chunks())


def _run_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    folder = path / "runs" if (path / "runs").is_dir() else path
    return sorted(file for file in folder.glob("*.parquet") if file != path / RUNS)


def _read_or_warn(file: Path, metrics: Collection[str]) -> pa.Table | None:
    table, problem = read_run_file(file, metrics)
    if problem:
        _log.warning("warning: skipped %s: %s", file, problem)
    return table
