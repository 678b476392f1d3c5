import os
import signal
import subprocess
import sys

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quantbench.errors import InputError
from quantbench.store import compaction
from quantbench.store.parquet import Store, load
from quantbench.store.record import SAMPLES_SCHEMA
from tests.store import records

# argv: root, the call of fsync, replace or unlink at which the process dies.
_KILLED_COMPACTION = """
import os, pathlib, signal, sys
from quantbench.store.parquet import Store

calls = 0

def dying(function):
    def call(*arguments, **options):
        global calls
        calls += 1
        if calls == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call

os.fsync, os.replace, pathlib.Path.unlink = dying(os.fsync), dying(os.replace), dying(pathlib.Path.unlink)
Store(sys.argv[1]).compact()
print(calls)
"""

# argv: root, number of the writer.
_WRITER = """
import sys
from quantbench.store.parquet import Store
from tests.store import records

store, writer = Store(sys.argv[1]), int(sys.argv[2])
for round in range(9):
    run_id = f"own-{writer}-{round}" if round % 3 else "shared"
    store.write(records.identity(run_id=run_id, seed=writer), records.with_samples(offset=writer))
"""

# argv: root. The limit stands for a full disk: the kernel refuses the write.
_COMPACTOR_ON_A_FULL_DISK = """
import resource, signal, sys
from quantbench.errors import InputError
from quantbench.store.parquet import Store

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))
try:
    Store(sys.argv[1]).compact()
except InputError as error:
    print(error)
"""

_COMPACTOR = """
import sys
from quantbench.store.parquet import Store

for _ in range(5):
    Store(sys.argv[1]).compact()
"""


def start(script, *arguments):
    return subprocess.Popen([sys.executable, "-c", script, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def write(store, run_id, seed=0):
    store.write(records.identity(run_id=run_id, seed=seed), records.with_samples(offset=seed))


def sorted_rows(frame):
    return frame.sort_values(["run_id", "metric"], ignore_index=True)


def assert_whole(store, run_ids):
    """Every run is there, with the samples of the very write that its rows are from."""
    assert set(store.load()["run_id"]) == set(run_ids)
    assert not store.load().duplicated(["run_id", "metric"]).any()
    for run_id in run_ids:
        assert store.exists(run_id)
        identity, measurements = store.read(run_id)
        assert len(measurements) == 2
        samples = store.samples(run_id)
        assert samples["key"].tolist() == ["w0", "w1", "w2", "i0", "i1", "i2", "i3"]
        assert samples["value"].iloc[0] == 2.25 + identity.seed


def test_compacted_runs_are_the_same_runs_in_two_files(tmp_path):
    store = Store(tmp_path)
    for run_id in ("c3", "a1", "b2"):
        write(store, run_id)
    before, samples, read = store.load(), store.samples("b2"), store.read("b2")
    assert store.compact() == 3
    assert sorted(path.name for path in tmp_path.rglob("*.parquet")) == ["runs.parquet", "samples.parquet"]
    pd.testing.assert_frame_equal(sorted_rows(store.load()), sorted_rows(before))
    pd.testing.assert_frame_equal(load(tmp_path / "runs.parquet"), store.load())
    pd.testing.assert_frame_equal(store.samples("b2"), samples)
    assert store.read("b2") == read
    assert_whole(store, ["a1", "b2", "c3"])
    assert not store.exists("d4")
    for read_missing in (store.read, store.samples):
        with pytest.raises(InputError, match="d4"):
            read_missing("d4")


def test_a_later_run_wins_over_compacted_rows_and_the_next_compaction_takes_it(tmp_path):
    store = Store(tmp_path)
    for run_id in ("a1", "b2", "c3"):
        write(store, run_id)
    store.compact()
    write(store, "b2", seed=7)
    write(store, "d4")
    for _ in range(2):
        assert store.read("b2")[0].seed == 7
        assert_whole(store, ["a1", "b2", "c3", "d4"])
        store.compact()
    assert store.compact() == 0


def test_only_rows_of_the_metrics_asked_for_are_read(tmp_path):
    store = Store(tmp_path)
    write(store, "a1")
    store.compact()
    write(store, "b2")
    assert load(tmp_path, metrics=["acc"])[["run_id", "metric"]].values.tolist() == [["b2", "acc"], ["a1", "acc"]]
    assert load(tmp_path, metrics=["flips"]).empty


def test_equal_contents_are_equal_bytes_however_they_came_together(tmp_path, monkeypatch):
    monkeypatch.setattr(compaction, "_GROUP_ROWS", 3)
    once, often = Store(tmp_path / "once"), Store(tmp_path / "often")
    names = [f"r{number}" for number in range(9)]
    for name in names:
        write(once, name)
    once.compact()
    for some in (names[::2], names[1::2], names[:3]):
        for name in some:
            write(often, name)
        often.compact()
    assert_whole(often, names)
    for file in ("runs.parquet", "samples.parquet"):
        assert (tmp_path / "once" / file).read_bytes() == (tmp_path / "often" / file).read_bytes()
    assert pq.ParquetFile(tmp_path / "once" / "runs.parquet").num_row_groups == 6


def test_more_runs_than_memory_holds_are_moved_in_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(compaction, "_BATCH_BYTES", 1)
    store = Store(tmp_path)
    for number in range(5):
        write(store, f"r{number}")
    assert store.compact() == 5
    assert_whole(store, [f"r{number}" for number in range(5)])


def test_a_compaction_killed_at_any_step_loses_nothing(tmp_path):
    jobs = {}
    for step in (1, 3, 5, 7, 8, 9, 10, 11, 13, 30):
        store = Store(tmp_path / str(step))
        write(store, "a1")
        write(store, "b2")
        store.compact()
        write(store, "b2", seed=1)
        write(store, "c3", seed=2)
        jobs[step] = (store, start(_KILLED_COMPACTION, store.root, step))
    codes = []
    for store, job in jobs.values():
        codes.append(job.wait(timeout=120))
        for _ in range(2):
            assert [store.read(run_id)[0].seed for run_id in ("a1", "b2", "c3")] == [0, 1, 2]
            assert_whole(store, ["a1", "b2", "c3"])
            store.check_writable()
            store.compact()
        assert sum(path.is_file() for path in store.root.rglob("*")) == 2
    assert codes == [-signal.SIGKILL] * 9 + [0], "only the last step is past the end"


def test_writers_and_compactions_at_once_lose_nothing_and_mix_nothing(tmp_path):
    jobs = [start(_WRITER, tmp_path, number) for number in range(1, 5)]
    jobs += [start(_COMPACTOR, tmp_path) for _ in range(2)]
    store, names = Store(tmp_path), [f"own-{w}-{r}" for w in range(1, 5) for r in range(9) if r % 3]
    seen: set[str] = set()
    while any(job.poll() is None for job in jobs):
        if seen or list(tmp_path.glob("runs/own*.parquet")):
            now = set(store.load()["run_id"]) - {"shared"}  # rewritten all the time, so between two files at times
            assert now >= seen, "a run that was readable stays readable"
            seen = now
    assert [job.wait() for job in jobs] == [0] * 6
    assert_whole(store, [*names, "shared"])
    store.compact()
    assert_whole(store, [*names, "shared"])


def test_files_that_are_no_whole_run_stay_where_they_are(tmp_path, caplog):
    store = Store(tmp_path)
    for run_id in ("good", "damaged", "half"):
        write(store, run_id)
    runs, samples = tmp_path / "runs", tmp_path / "samples"
    (runs / "damaged.parquet").write_bytes((runs / "damaged.parquet").read_bytes()[:-20])
    (samples / "half.parquet").unlink()
    os.link(runs / "good.parquet", runs / "renamed.parquet")
    pd.DataFrame({"value": [1.0]}).to_parquet(runs / "foreign.parquet")
    kept = {path: path.read_bytes() for path in runs.iterdir() if path.stem != "good"}
    assert store.compact() == 1
    assert {path: path.read_bytes() for path in runs.iterdir()} == kept
    assert all(str(path) in caplog.text for path in kept)
    assert store.read("good")[0].run_id == "good"


@pytest.mark.parametrize("name", ["runs.parquet", "samples.parquet"])
def test_a_damaged_compacted_file_is_named_and_not_overwritten(tmp_path, caplog, name):
    store = Store(tmp_path)
    write(store, "a1")
    store.compact()
    damaged = (tmp_path / name).read_bytes()[:-20]
    (tmp_path / name).write_bytes(damaged)
    write(store, "b2")
    with pytest.raises(InputError, match=f"{name}.*move it away"):
        store.compact()
    assert (tmp_path / name).read_bytes() == damaged
    assert store.exists("b2")
    assert store.exists("a1") == (name == "samples.parquet")
    if name == "runs.parquet":
        load(tmp_path)
        assert name in caplog.text
    else:
        with pytest.raises(InputError, match=name):
            store.samples("a1")


def test_a_full_disk_stops_compaction_with_one_line_and_loses_nothing(tmp_path):
    store = Store(tmp_path)
    for run_id in ("a1", "b2"):
        write(store, run_id)
    output, _ = start(_COMPACTOR_ON_A_FULL_DISK, tmp_path).communicate(timeout=120)
    assert output.startswith(f"cannot compact {tmp_path}: ")
    assert output.count("\n") == 1
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == 4
    assert_whole(store, ["a1", "b2"])


def test_a_file_system_without_locks_is_not_compacted(tmp_path, monkeypatch):
    store = Store(tmp_path)
    write(store, "a1")

    def no_locks(*arguments):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.raises(InputError, match="no locks"):
        store.compact()
    assert_whole(store, ["a1"])


def test_runs_without_samples_compact_too(tmp_path):
    store = Store(tmp_path)
    store.write(records.full_precision(), [records.perplexity(10.0)])
    store.compact()
    assert store.samples("fp").empty
    assert pa.schema(pq.read_schema(tmp_path / "samples.parquet")).names == SAMPLES_SCHEMA.names
