"""How files of a store are written: whole or not at all, by many jobs on many machines at once."""

import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from quantbench.errors import InputError

_FOREIGN_HOST_SECONDS = 24 * 3600
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EBADF, errno.ENOSYS)


def write_synced(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write the file and wait until the disk has it."""
    with path.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


def write_table(table: pa.Table, path: Path) -> None:
    """A small table as parquet, on the disk when this returns."""
    # A run is a handful of rows: dictionaries and statistics only make the file bigger and slower to open.
    options = {"compression": "zstd", "use_dictionary": False, "write_statistics": False}
    write_synced(path, lambda file: pq.write_table(table, file, **options))


def replace(new: Path, target: Path) -> None:
    """Give a synced file its final name, on the disk when this returns."""
    os.replace(new, target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the folder's entries."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def temporary(target: Path) -> Iterator[Path]:
    """A name beside ``target`` that says who writes it; what is left there at the end is removed."""
    path = target.with_name(f".{target.name}@{socket.gethostname()}@{os.getpid()}@{uuid4().hex}.tmp")
    try:
        yield path
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def prepare_folder(folder: Path) -> None:
    """Create the folder, remove what dead jobs left in it, and write a probe."""
    folder.mkdir(parents=True, exist_ok=True)
    _clean(folder)
    with temporary(folder / "probe") as probe:
        probe.write_bytes(b"probe")


def clock(folder: Path) -> float:
    """The time by the file system's own clock, in seconds; the clocks of the machines that share it may differ."""
    with temporary(folder / "clock") as probe:
        probe.touch()
        return probe.stat().st_mtime


def _clean(folder: Path) -> None:
    """Remove temporary files whose writer is dead; on another machine, whose writer has been silent for a day."""
    now = time.time()
    for path in folder.glob(".*.tmp"):
        _, host, process, _ = [*path.name.split("@"), "", "", ""][:4]
        with suppress(OSError):
            if host == socket.gethostname():
                stale = process.isdigit() and not alive(int(process))
            else:
                stale = now - path.stat().st_mtime > _FOREIGN_HOST_SECONDS
            if stale:
                path.unlink()


def alive(process: int) -> bool:
    """Whether this machine has a process of that id."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Hold the folder's lock; yields whether there is one, for some network file systems have no locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        held = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            held = False
        yield held
    finally:
        os.close(descriptor)


@contextmanager
def reported(action: str) -> Iterator[None]:
    """Turn what the file system refuses into one line that says what could not be done."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot {action}: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """Why, without line breaks."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(reason.split())
