import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from quantbench.errors import InputError
from quantbench.store import claims
from quantbench.store.claims import Claims

# argv: folder, run id: take the claim, say so, and hold it.
_HOLDER = """
import sys, time
from pathlib import Path
from quantbench.store.claims import Claims
print(Claims(Path(sys.argv[1])).take(sys.argv[2]), flush=True)
time.sleep(60)
"""

# argv: folder: compute each of five runs once, unless it was computed; append a line for each computation.
_WORKER = """
import sys, time
from pathlib import Path
from quantbench.store.claims import Claims
folder = Path(sys.argv[1])
claims = Claims(folder / "running")
for number in range(5):
    with claims.held(f"r{number}", waiting=lambda owner: None):
        done = folder / f"r{number}.done"
        if not done.exists():
            with (folder / "log").open("a") as log:
                log.write(f"{number}\\n")
            time.sleep(0.02)
            done.touch()
"""


def start(script, *arguments):
    return subprocess.Popen([sys.executable, "-c", script, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def pretend(path, **changes):
    """Make the claim another owner's."""
    path.write_text(json.dumps(json.loads(path.read_text()) | {"token": "other"} | changes))


def test_a_run_has_one_owner_until_it_is_released(tmp_path):
    first, second = Claims(tmp_path), Claims(tmp_path)
    assert first.take("a1") is None
    owner = second.take("a1")
    assert owner.process == os.getpid()
    assert [found.run_id for found in second.owners()] == ["a1"]
    second.release("a1")
    assert second.take("a1") == owner, "only the owner releases"
    first.release("a1")
    assert second.take("a1") is None


def test_processes_that_want_the_same_runs_compute_each_once(tmp_path, monkeypatch):
    workers = [start(_WORKER, tmp_path) for _ in range(4)]
    assert [worker.wait(timeout=120) for worker in workers] == [0] * 4
    assert sorted((tmp_path / "log").read_text().split()) == list("01234")
    assert not list((tmp_path / "running").iterdir())


def test_a_killed_owner_leaves_the_run_to_others_at_once(tmp_path):
    holder = start(_HOLDER, tmp_path, "a1")
    assert holder.stdout.readline() == "None\n"
    mine = Claims(tmp_path)
    assert mine.take("a1").process == holder.pid
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert mine.owners() == []
    assert mine.take("a1") is None


def test_a_process_that_got_a_dead_owners_id_does_not_keep_its_claim(tmp_path):
    Claims(tmp_path).take("a1")
    pretend(tmp_path / "a1.json", started="1")
    assert Claims(tmp_path).take("a1") is None


@pytest.mark.parametrize(("silent", "free"), [(10, False), (3600, True)])
def test_an_owner_on_another_machine_counts_as_dead_after_silence(tmp_path, silent, free):
    Claims(tmp_path).take("a1")
    path = tmp_path / "a1.json"
    pretend(path, machine="elsewhere", host="elsewhere", process=1)
    os.utime(path, (time.time() - silent,) * 2)
    assert (Claims(tmp_path).owners() == []) == free
    assert (Claims(tmp_path).take("a1") is None) == free


def test_a_wrong_clock_neither_frees_a_claim_nor_keeps_it(tmp_path, monkeypatch):
    """Only the file system's clock counts: this machine believes that it is two days later, then earlier."""
    Claims(tmp_path).take("a1")
    pretend(tmp_path / "a1.json", machine="elsewhere")
    now = time.time()
    for skew in (2 * 86400, -2 * 86400):
        monkeypatch.setattr(time, "time", lambda skew=skew: now + skew)
        assert Claims(tmp_path).take("a1") is not None
    os.utime(tmp_path / "a1.json", (now - 3600,) * 2)
    assert Claims(tmp_path).take("a1") is None


def test_a_living_owner_is_heard(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "HEARTBEAT_SECONDS", 0.02)
    mine = Claims(tmp_path)
    mine.take("a1")
    path = tmp_path / "a1.json"
    os.utime(path, (0, 0))
    deadline = time.monotonic() + 20
    while path.stat().st_mtime == 0 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert path.stat().st_mtime > 0
    mine.release("a1")
    time.sleep(0.1)
    assert not path.exists(), "no heartbeat brings a released claim back"


def test_a_waiting_job_goes_on_when_the_first_ends_and_says_once_for_whom_it_waits(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "POLL_SECONDS", 0.02)
    first, told = Claims(tmp_path), []
    first.take("a1")
    threading.Timer(0.3, first.release, ["a1"]).start()
    with Claims(tmp_path).held("a1", waiting=told.append):
        assert not first._mine
    assert [owner.process for owner in told] == [os.getpid()]


def test_a_half_written_claim_counts_until_it_is_old(tmp_path):
    (tmp_path / "a1.json").write_text('{"run_id"')
    assert Claims(tmp_path).take("a1") is not None
    os.utime(tmp_path / "a1.json", (0, 0))
    assert Claims(tmp_path).take("a1") is None


def test_a_claim_that_cannot_be_written_is_one_line_and_blocks_nobody(tmp_path, monkeypatch):
    with monkeypatch.context() as full:
        full.setattr(claims.json, "dump", refused)
        with pytest.raises(InputError, match=f"cannot claim run a1 in {tmp_path}: No space left"):
            Claims(tmp_path).take("a1")
    assert Claims(tmp_path).owners() == []
    assert Claims(tmp_path).take("a1") is None


def refused(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device")
