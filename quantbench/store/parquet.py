"""One parquet file per run, written so that a run is either complete or absent, and read all at once."""

import errno
import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from quantbench.errors import InputError
from quantbench.measurement import Measurement
from quantbench.store.record import (
    RUN_SCHEMA,
    SAMPLES_SCHEMA,
    SCHEMA_VERSION,
    RunIdentity,
    parse_run,
    run_table,
    samples_table,
)

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)

_FOREIGN_HOST_SECONDS = 24 * 3600


@dataclass(frozen=True)
class RunPaths:
    """Files of one run: its rows and, per window and item, its samples."""

    run: Path
    samples: Path


class Store:
    """Runs below one folder: ``runs/<run_id>.parquet`` and ``samples/<run_id>.parquet``.

    A run exists when its run file exists. That file is the last thing written, so a job killed at any point leaves
    either the whole run or none. Jobs share the folder freely; two jobs writing the same run leave one job's pair.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def paths(self, run_id: str) -> RunPaths:
        """Where the run's files are, or would be."""
        name = f"{run_id}.parquet"
        return RunPaths(run=self.root / "runs" / name, samples=self.root / "samples" / name)

    def exists(self, run_id: str) -> bool:
        """Whether the run is stored, complete."""
        return self.paths(run_id).run.is_file()

    def check_writable(self) -> None:
        """Create the folders, remove what dead jobs left, and write a probe: fail before the work, not after it.

        Raises:
            InputError: the folder cannot be created or written.
        """
        with _reported(f"write results to {self.root}"):
            for folder in (self.root / "runs", self.root / "samples"):
                folder.mkdir(parents=True, exist_ok=True)
                _clean(folder)
                with _temporary(folder / "probe") as probe:
                    probe.write_bytes(b"probe")

    def write(self, identity: RunIdentity, measurements: Sequence[Measurement]) -> RunPaths:
        """Store the run, replacing an older result of the same run id.

        Raises:
            InputError: the disk refuses (full, read-only, no permission).
        """
        run, samples = run_table(identity, measurements), samples_table(identity.run_id, measurements)
        paths = self.paths(identity.run_id)
        self.check_writable()
        with (
            _reported(f"write run {identity.run_id} to {self.root}"),
            _temporary(paths.run) as new_run,
            _temporary(paths.samples) as new_samples,
        ):
            _write_synced(samples, new_samples)
            _write_synced(run, new_run)
            with _locked(self.root / "runs"):
                # An older run file must not stand beside newer samples, not even for a moment.
                paths.run.unlink(missing_ok=True)
                _sync_folder(paths.run.parent)
                os.replace(new_samples, paths.samples)
                _sync_folder(paths.samples.parent)
                os.replace(new_run, paths.run)
                _sync_folder(paths.run.parent)
        return paths

    def read(self, run_id: str) -> tuple[RunIdentity, list[Measurement]]:
        """One stored run; its measurements come without samples.

        Raises:
            InputError: the run is not stored, or its file is damaged or of another schema.
        """
        path = self.paths(run_id).run
        table, problem = _read_run_file(path)
        if table is None:
            raise InputError(f"{path}: {problem or 'not a run file'}; recompute it with force=true")
        return parse_run(table)

    def samples(self, run_id: str) -> "pd.DataFrame":
        """Samples of one stored run, columns of SAMPLES_SCHEMA.

        Raises:
            InputError: the samples are missing or damaged.
        """
        path = self.paths(run_id).samples
        try:
            return _to_frame(pq.read_table(path, schema=SAMPLES_SCHEMA))
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path}: {_one_line(error)}; recompute it with force=true") from error

    def load(self) -> "pd.DataFrame":
        """Rows of every stored run: ``load(root)``."""
        return load(self.root)


def load(path: str | Path) -> "pd.DataFrame":
    """Rows of all runs at ``path``: a results folder, a folder of run files, or one parquet file. Columns: RUN_SCHEMA.

    A file that cannot be read or is not a run file is named in a warning; the others are read.

    Raises:
        InputError: nothing there, or no readable run.
    """
    path = Path(path)
    if path.is_file():
        files = [path]
    elif path.is_dir():
        folder = path / "runs" if (path / "runs").is_dir() else path
        files = sorted(folder.glob("*.parquet"))
    else:
        raise InputError(f"no results at {path}: give a results folder or a parquet file")
    tables = []
    for file in files:
        table, problem = _read_run_file(file)
        if table is not None:
            tables.append(table)
        elif problem:
            _log.warning("warning: skipped %s: %s", file, problem)
    if not tables:
        raise InputError(f"no stored runs in {path}")
    return _to_frame(pa.concat_tables(tables).combine_chunks())


def _read_run_file(path: Path) -> tuple[pa.Table | None, str]:
    """The rows, or None and what is wrong with the file (nothing, where it is a samples file beside the runs)."""
    try:
        # One file at a time: a dataset over many small files measured slower, and one bad file stops it.
        table = pq.ParquetFile(path).read(use_threads=False)
        if table.schema.names == SAMPLES_SCHEMA.names:
            return None, ""
        if table.schema.names != RUN_SCHEMA.names or table["schema_version"].unique().to_pylist() != [SCHEMA_VERSION]:
            return None, f"not a run file of schema version {SCHEMA_VERSION}"
        return table.cast(RUN_SCHEMA), ""
    except (pa.ArrowException, OSError, ValueError) as error:
        return None, _one_line(error)


def _to_frame(table: pa.Table) -> "pd.DataFrame":
    import pandas as pd

    # numpy has no missing integer: bits=4 must not become 4.0 because full precision has none.
    nullable = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
    return table.to_pandas(types_mapper=nullable.get)


def _write_synced(table: pa.Table, path: Path) -> None:
    with path.open("wb") as file:
        # A run is a handful of rows: dictionaries and statistics only make the file bigger and slower to open.
        pq.write_table(table, file, compression="zstd", use_dictionary=False, write_statistics=False)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """A name beside ``target`` that says who writes it; what is left there at the end is removed."""
    path = target.with_name(f".{target.name}@{socket.gethostname()}@{os.getpid()}@{uuid4().hex}.tmp")
    try:
        yield path
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _clean(folder: Path) -> None:
    """Remove temporary files whose writer is dead; on another machine, whose writer has been silent for a day."""
    for path in folder.glob(".*.tmp"):
        _, host, process, _ = [*path.name.split("@"), "", "", ""][:4]
        with suppress(OSError):
            if host == socket.gethostname():
                stale = process.isdigit() and not _alive(int(process))
            else:
                stale = time.time() - path.stat().st_mtime > _FOREIGN_HOST_SECONDS
            if stale:
                path.unlink()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: another job's pair of files must not land between our two renames."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            # Some network file systems have no locks; only two jobs computing the same run at once need one.
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EBADF, errno.ENOSYS):
                raise
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _reported(action: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot {action}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(reason.split())
