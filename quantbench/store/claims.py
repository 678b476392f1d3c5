"""Who is computing which run right now, so that jobs that share a store settle on one for each run.

A claim is a file, made exclusively, whose owner touches it every half minute. It is void when its owner is known to be
dead (same machine) or has been silent for five minutes by the file system's clock, so a machine whose clock is wrong
neither loses its claims nor keeps dead ones alive. Claims save work; no result depends on them.
"""

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from uuid import uuid4

from quantbench.store.files import alive, clock, locked, prepare_folder, reported
from quantbench.store.record import check_run_id

HEARTBEAT_SECONDS = 30.0
SILENT_SECONDS = 300.0
POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Owner:
    """The process that computes a run. machine: host, boot and process namespace; started: of the process, in ticks."""

    run_id: str
    user: str
    host: str
    process: int
    since: str
    machine: str
    started: str
    token: str

    def __str__(self) -> str:
        return f"process {self.process} of {self.user} on {self.host} since {self.since}"


class Claims:
    """The claims of one store, below ``folder``; those of this object are kept alive by one thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._mine: dict[str, Owner] = {}
        self._changed = threading.Condition()
        self._heart: threading.Thread | None = None

    def take(self, run_id: str) -> Owner | None:
        """Claim the run; returns None, or whose it is.

        Raises:
            InputError: the disk refuses.
        """
        check_run_id(run_id)
        path, me = self._path(run_id), _myself(run_id)
        with reported(f"claim run {run_id} in {self.folder}"):
            prepare_folder(self.folder)
            with locked(self.folder):
                other = self._living(path, clock(self.folder))
                if other is not None:
                    return other
                path.unlink(missing_ok=True)
                try:
                    _make(path, me)
                except FileExistsError:  # only where the file system has no locks
                    return _read(path) or me
        self._keep(me)
        return None

    def release(self, run_id: str) -> None:
        """Give the claim back; one that was lost to another process stays theirs."""
        with self._changed:
            me = self._mine.pop(run_id, None)
            self._changed.notify_all()
        if me is None:
            return
        with suppress(OSError), locked(self.folder):
            if _read(self._path(run_id)) == me:
                self._path(run_id).unlink()

    @contextmanager
    def held(self, run_id: str, *, waiting: Callable[[Owner], None]) -> Iterator[None]:
        """Hold the run's claim, after waiting for another job that has it; ``waiting`` is told once for each owner."""
        told = None
        while (owner := self.take(run_id)) is not None:
            if owner != told:
                waiting(owner)
                told = owner
            threading.Event().wait(POLL_SECONDS)
        try:
            yield
        finally:
            self.release(run_id)

    def owners(self) -> list[Owner]:
        """Of every run that is being computed."""
        if not self.folder.is_dir():
            return []
        try:
            now = clock(self.folder)
        except OSError:  # a store that may only be read
            now = datetime.now(timezone.utc).timestamp()
        found = (self._living(path, now) for path in sorted(self.folder.glob("*.json")))
        return [owner for owner in found if owner is not None]

    def _path(self, run_id: str) -> Path:
        return self.folder / f"{run_id}.json"

    def _living(self, path: Path, now: float) -> Owner | None:
        try:
            touched = path.stat().st_mtime
        except FileNotFoundError:
            return None
        owner = _read(path)
        if owner is not None and owner.machine == _machine():
            running = alive(owner.process) and _started(owner.process) in (owner.started, "")
            return owner if running else None
        silent = now - touched > SILENT_SECONDS
        return None if silent else owner or _unknown(path.stem)

    def _keep(self, me: Owner) -> None:
        with self._changed:
            self._mine[me.run_id] = me
            if self._heart is None:
                self._heart = threading.Thread(target=self._beat, name="claims", daemon=True)
                self._heart.start()

    def _beat(self) -> None:
        while True:
            with self._changed:
                self._changed.wait(HEARTBEAT_SECONDS)
                if not self._mine:
                    self._heart = None
                    return
                mine = list(self._mine)
            for run_id in mine:
                with suppress(OSError):
                    os.utime(self._path(run_id))  # the server's clock, not this machine's


def _myself(run_id: str) -> Owner:
    return Owner(
        run_id=run_id,
        user=_user(),
        host=socket.gethostname(),
        process=os.getpid(),
        since=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        machine=_machine(),
        started=_started(os.getpid()),
        token=uuid4().hex,
    )


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container whose user id has no name
        return str(os.getuid())


def _make(path: Path, owner: Owner) -> None:
    """Write a claim that is not there; a disk that is full gets none, for nobody could tell whose it is."""
    with path.open("x", encoding="utf-8") as file:
        try:
            json.dump(asdict(owner), file)
            file.flush()
        except OSError:
            path.unlink(missing_ok=True)
            raise


def _unknown(run_id: str) -> Owner:
    """The owner of a claim that is being written, or that is damaged."""
    return Owner(run_id, "unknown", "unknown", 0, "unknown", "", "", "")


def _read(path: Path) -> Owner | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Owner(**content)
    except (OSError, ValueError, TypeError):
        return None


def _machine() -> str:
    """Equal for processes that see each other's ids: two containers may share a host name, and a host may restart."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return "/".join(parts)


def _started(process: int) -> str:
    """When the process started, in clock ticks since boot, or nothing where the system does not say: ids are reused."""
    try:
        # proc(5): the name in parentheses may hold anything; starttime is the 20th field after it.
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
