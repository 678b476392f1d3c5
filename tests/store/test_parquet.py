import os
import signal
import subprocess
import sys

import pandas as pd
import pyarrow.parquet as pq
import pytest

from quantbench.errors import InputError
from quantbench.store.parquet import Store, load
from tests.store import records

# argv: root, the call of fsync or replace at which the process dies.
_KILLED_WRITER = """
import os, signal, sys
from quantbench.store.parquet import Store
from tests.store import records

calls = 0

def dying(function):
    def call(*arguments):
        global calls
        calls += 1
        if calls == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)
    return call

os.fsync, os.replace = dying(os.fsync), dying(os.replace)
Store(sys.argv[1]).write(records.identity(seed=1), records.with_samples(offset=0.5))
"""

# argv: root, number of the writer.
_CONCURRENT_WRITER = """
import sys
from quantbench.store.parquet import Store
from tests.store import records

store, writer = Store(sys.argv[1]), int(sys.argv[2])
for round in range(5):
    store.write(records.identity(run_id=f"own-{writer}-{round}", seed=writer), records.with_samples(offset=writer))
    store.write(records.identity(run_id="shared", seed=writer), records.with_samples(offset=writer))
"""

# argv: root. The limit stands for a full disk: the kernel refuses the write.
_WRITER_ON_A_FULL_DISK = """
import resource, signal, sys
from quantbench.errors import InputError
from quantbench.store.parquet import Store
from tests.store import records

store = Store(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))
try:
    store.write(records.identity(), records.with_samples())
except InputError as error:
    print(error)
"""


def _start(script, *arguments):
    return subprocess.Popen([sys.executable, "-c", script, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def _offset(store, run_id):
    """By how much the stored samples are above those of ``with_samples()``; the run's own seed says what it was."""
    samples = store.samples(run_id)
    return samples[samples["metric"] == "perplexity"]["value"].iloc[0] - 2.25


def test_a_written_run_reads_back_identical(tmp_path):
    store = Store(tmp_path)
    paths = store.write(records.identity(), records.with_samples())
    assert store.exists("a1")
    assert paths.run == tmp_path / "runs" / "a1.parquet"
    assert store.read("a1") == (records.identity(), records.with_samples())
    samples = store.samples("a1")
    assert samples["key"].tolist() == ["w0", "w1", "w2", "i0", "i1", "i2", "i3"]
    assert samples["value"].tolist() == [2.25, 2.5, 2.375, 1.0, 0.0, 1.0, 1.0]
    assert samples["baseline"].tolist()[:3] == [2.125, 2.375, 2.25]
    assert samples["baseline"].isna().tolist() == [False] * 3 + [True] * 4


def test_loaded_rows_keep_integers_and_missing_values(tmp_path):
    store = Store(tmp_path)
    store.write(records.full_precision(), [records.perplexity(10.0)])
    store.write(records.identity(), records.with_samples())
    frame = store.load().set_index(["run_id", "metric"])
    assert frame.loc[("a1", "perplexity"), "bits"] == 4
    assert frame["bits"].dtype == "Int64"
    assert frame["bits"].isna().tolist() == [False, False, True]
    assert frame.loc[("a1", "acc"), "value"] == 0.75


def test_a_writer_killed_at_any_step_leaves_the_old_run_the_new_run_or_none(tmp_path):
    writers = {}
    for step in range(1, 9):
        store = Store(tmp_path / str(step))
        store.write(records.identity(seed=0), records.with_samples())
        writers[step] = (store, _start(_KILLED_WRITER, store.root, step))
    outcomes = []
    for store, writer in writers.values():
        code = writer.wait(timeout=120)
        if store.exists("a1"):
            identity, _ = store.read("a1")
            assert _offset(store, "a1") == 0.5 * identity.seed
            outcomes.append((code, identity.seed))
        else:
            outcomes.append((code, None))
        store.write(records.identity(seed=2), records.with_samples(offset=1.0))
        assert store.read("a1")[0].seed == 2
        assert sorted(path.name for path in store.root.rglob("*.*")) == ["a1.parquet", "a1.parquet"]
    dead = -signal.SIGKILL
    # Two files and then, each with its folder: the old run's removal, the samples, the run. The eighth step is none.
    assert outcomes == [(dead, 0)] * 2 + [(dead, None)] * 4 + [(dead, 1), (0, 1)]


def test_eight_writers_at_once_lose_nothing_and_never_mix_their_files(tmp_path):
    writers = [_start(_CONCURRENT_WRITER, tmp_path, number) for number in range(1, 9)]
    assert [writer.wait(timeout=120) for writer in writers] == [0] * 8
    frame = load(tmp_path)
    assert frame["run_id"].nunique() == 41
    assert len(frame) == 82
    identity, _ = Store(tmp_path).read("shared")
    assert _offset(Store(tmp_path), "shared") == identity.seed
    assert not list(tmp_path.rglob(".*.tmp"))


@pytest.mark.parametrize("content", [b"", b"PAR1 not parquet", None], ids=["empty", "garbage", "truncated"])
def test_a_damaged_file_is_named_and_the_others_are_read(tmp_path, caplog, content):
    store = Store(tmp_path)
    paths = store.write(records.identity(), records.with_samples())
    store.write(records.identity(run_id="b2"), records.with_samples())
    paths.run.write_bytes(paths.run.read_bytes()[:-20] if content is None else content)
    assert set(load(tmp_path)["run_id"]) == {"b2"}
    assert str(paths.run) in caplog.text
    with pytest.raises(InputError, match=r"a1\.parquet"):
        store.read("a1")


def test_a_foreign_parquet_file_is_named_and_a_samples_file_is_passed_over(tmp_path, caplog):
    store = Store(tmp_path)
    paths = store.write(records.identity(), records.with_samples())
    pd.DataFrame({"run_id": ["x"], "value": [1.0]}).to_parquet(tmp_path / "runs" / "foreign.parquet")
    os.link(paths.samples, tmp_path / "runs" / "samples.parquet")
    assert set(load(tmp_path)["run_id"]) == {"a1"}
    assert "foreign.parquet" in caplog.text
    assert "samples.parquet" not in caplog.text


def test_a_run_file_rewritten_by_pandas_still_loads(tmp_path):
    Store(tmp_path).write(records.full_precision(), [records.perplexity(10.0)])
    Store(tmp_path).write(records.identity(), records.with_samples())
    original = load(tmp_path)
    original.to_parquet(tmp_path / "all.parquet")
    pd.testing.assert_frame_equal(load(tmp_path / "all.parquet"), original)


def test_a_folder_of_run_files_and_a_single_file_load(tmp_path):
    paths = Store(tmp_path).write(records.identity(), records.with_samples())
    assert load(paths.run.parent).equals(load(tmp_path))
    assert load(paths.run).equals(load(tmp_path))


def test_temporary_files_of_dead_writers_go_and_those_of_live_ones_stay(tmp_path):
    store = Store(tmp_path)
    paths = store.write(records.identity(), records.with_samples())
    finished = subprocess.Popen([sys.executable, "-c", ""])
    finished.wait()
    host = os.uname().nodename
    dead = paths.run.with_name(f".x.parquet@{host}@{finished.pid}@0.tmp")
    alive = paths.run.with_name(f".x.parquet@{host}@{os.getpid()}@0.tmp")
    elsewhere = paths.run.with_name(".x.parquet@another-host@1@0.tmp")
    for path in (dead, alive, elsewhere):
        path.write_bytes(b"half")
    assert set(load(tmp_path)["run_id"]) == {"a1"}
    store.check_writable()
    assert [path.exists() for path in (dead, alive, elsewhere)] == [False, True, True]


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    Store(tmp_path).check_writable()
    output, _ = _start(_WRITER_ON_A_FULL_DISK, tmp_path).communicate(timeout=120)
    assert output.startswith("cannot write run a1")
    assert output.count("\n") == 1
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    "action",
    [Store.check_writable, lambda store: store.write(records.identity(), records.with_samples())],
    ids=["early-check", "write"],
)
def test_a_results_folder_that_cannot_be_made_is_an_input_error(tmp_path, action):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write results to .*file"):
        action(Store(tmp_path / "file" / "results"))


@pytest.mark.parametrize("made", [False, True], ids=["missing", "empty"])
def test_a_results_folder_without_runs_is_an_input_error(tmp_path, made):
    folder = tmp_path / "results"
    if made:
        folder.mkdir()
    with pytest.raises(InputError, match="results"):
        load(folder)


def test_a_file_from_before_the_youngest_columns_reads_as_what_it_meant(tmp_path):
    store = Store(tmp_path)
    store.write(records.identity(), [records.perplexity(9.0)])
    path = store.paths("a1").run
    young = ["kv_cache", "training", "activation_bits", "kv_bits"]
    pq.write_table(pq.read_table(path).drop_columns(young), path)
    assert store.read("a1")[0] == records.identity()
    assert store.compact() == 1
    assert store.read("a1")[0] == records.identity()
