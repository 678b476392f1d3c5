import json

import pytest

from quantbench.errors import InputError, QuantizationError
from quantbench.store.parquet import Store
from tests.store import records


def attempt(store, error=None, run_id="a1"):
    """Let the run fail with ``error``, or store it."""
    if error is not None:
        store.write_failure(records.failure(run_id=run_id, reason=str(error)))
    else:
        store.write(records.identity(run_id=run_id), records.with_samples())


def test_a_failure_reads_back_and_is_not_a_result(tmp_path):
    store = Store(tmp_path)
    store.write(records.identity(run_id="b2"), records.with_samples())
    store.write_failure(records.failure())
    assert store.failures() == [records.failure()]
    assert not store.exists("a1")
    assert set(store.load()["run_id"]) == {"b2"}


def test_what_stops_a_run_is_kept_until_it_succeeds(tmp_path):
    store = Store(tmp_path)
    for error in (QuantizationError("not positive definite"), MemoryError("no memory")):
        attempt(store, error)
        assert [failure.reason for failure in store.failures()] == [str(error)]
    attempt(store)
    assert store.failures() == []
    assert not list((tmp_path / "failures").iterdir())


def test_a_failed_recomputation_leaves_the_older_result(tmp_path):
    store = Store(tmp_path)
    attempt(store)
    attempt(store, QuantizationError("broken now"))
    assert store.exists("a1")
    assert store.failures() == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"run_id": "b2"}', json.dumps({"run_id": "other"})])
def test_a_damaged_failure_is_named_and_the_others_are_read(tmp_path, caplog, content):
    store = Store(tmp_path)
    path = store.write_failure(records.failure(run_id="b2"))
    store.write_failure(records.failure())
    path.write_text(content)
    assert store.failures() == [records.failure()]
    assert str(path) in caplog.text


@pytest.mark.parametrize("run_id", ["../a1", "a/b", "", "a.b", "x" * 300, "a\n"])
def test_an_id_that_leaves_the_store_is_refused(tmp_path, run_id):
    with pytest.raises(ValueError, match="letters, digits"):
        records.failure(run_id=run_id)
    with pytest.raises(ValueError, match="letters, digits"):
        records.identity(run_id=run_id)
    with pytest.raises(ValueError, match="letters, digits"):
        Store(tmp_path).claims.take(run_id)


def test_a_failure_that_cannot_be_written_is_an_error_of_one_line(tmp_path):
    store = Store(tmp_path)
    (tmp_path / "failures").write_text("a file where the folder should be")
    with pytest.raises(InputError, match="cannot write the failure of run a1"):
        store.write_failure(records.failure())


def test_a_secret_in_the_error_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("HUB_TOKEN", 'canary"4711\\x')
    monkeypatch.setenv("COLOR", "canary-free")
    store = Store(tmp_path)
    reason = 'GET https://user:canary"4711\\x@host failed; canary-free'
    path = store.write_failure(records.failure(reason=reason))
    assert "4711" not in path.read_text()
    assert store.failures()[0].reason == "GET https://user:<HUB_TOKEN>@host failed; canary-free"
