"""Runs that fail, that are told to stop, and that two jobs want at once."""

import signal
import subprocess
import sys
import time

from quantbench.__main__ import main
from quantbench.store.parquet import Store

SMALL = ["evaluation.max_windows=2", "evaluation.tasks=[]", "calibration.num_samples=2", "logger=none"]


def start(folder, *arguments):
    command = [sys.executable, "-m", "quantbench", *SMALL, *arguments, "results_dir=out"]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_run_without_data_is_kept_with_its_reason_and_replaced_when_it_succeeds(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("one two three")
    arguments = [*SMALL, "method=gptq", "calibration.corpus=text.txt", "results_dir=out"]
    assert main(arguments) == 2
    (failure,) = Store("out").failures()
    assert failure.stage == "calibration"
    assert failure.reason in capfd.readouterr().err
    assert (failure.method, failure.bits, failure.model) == ("gptq", 4, "embedded")
    assert failure.config["calibration"]["corpus"] == "text.txt"
    assert not Store("out").exists(failure.run_id)

    def broken(*arguments, **options):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] can't allocate memory")

    monkeypatch.setattr("quantbench.run.quantize_each", broken)
    arguments[4:6] = ["method=rtn", "bits=3"]
    assert main(arguments) == 1
    (out_of_memory,) = (found for found in Store("out").failures() if found.method == "rtn")
    assert out_of_memory.reason.startswith("out of memory on cpu")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 0
    assert Store("out").failures() == [failure]
    assert Store("out").exists(out_of_memory.run_id)


def test_a_failure_that_cannot_be_written_does_not_hide_its_reason(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "failures").write_text("a file where the folder should be")
    (tmp_path / "text.txt").write_text("one two three")
    assert main([*SMALL, "method=gptq", "calibration.corpus=text.txt", "results_dir=out"]) == 2
    assert "too little text in text.txt" in capfd.readouterr().err


def test_wrong_input_at_composition_is_no_failed_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*SMALL, "bits=four", "results_dir=out"]) == 2
    assert main([*SMALL, "device=toaster", "results_dir=out"]) == 2
    assert not (tmp_path / "out").exists()


def test_a_text_file_that_is_not_there_is_no_failed_run(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    missing = [*SMALL, "evaluation.corpus=no.txt", "results_dir=out"]
    assert main([*missing, "method=rtn"]) == 2
    assert "no text file at no.txt" in capfd.readouterr().err
    assert main(["-m", *missing, "method=rtn,absmax"]) == 2
    assert Store("out").failures() == []


def test_sigterm_makes_the_current_run_missing_and_keeps_finished_ones(tmp_path):
    job = start(tmp_path, "-m", "hydra/launcher=basic", "method=rtn,gptq", "calibration.num_samples=64")
    out, deadline = tmp_path / "out", time.monotonic() + 120
    # The first is stored and no longer claimed, the second is claimed.
    while not list(out.glob("runs/*.parquet")) or {path.stem for path in out.glob("runs/*.parquet")} >= {
        path.stem for path in out.glob("running/*.json")
    }:
        assert job.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.5)
    job.send_signal(signal.SIGTERM)
    _, errors = job.communicate(timeout=120)
    assert job.returncode == 143, errors
    assert "terminated: nothing of the unfinished run is stored" in errors
    store = Store(tmp_path / "out")
    assert store.load()["method"].unique().tolist() == ["rtn"]
    assert store.failures() == []
    assert store.claims.owners() == []
    assert not list((tmp_path / "out").rglob("*.tmp"))


def test_sigterm_in_a_fused_sweep_leaves_its_runs_missing_and_unclaimed(tmp_path):
    job = start(tmp_path, "-m", "method=rtn,gptq,awq", "calibration.num_samples=64")
    deadline = time.monotonic() + 300
    while len(list((tmp_path / "out").glob("running/*.json"))) < 3:
        assert job.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    _, errors = job.communicate(timeout=120)
    assert job.returncode == 143, errors
    store = Store(tmp_path / "out")
    assert store.failures() == []
    assert store.claims.owners() == []
    assert not list((tmp_path / "out").glob("runs/*.parquet"))


def test_two_jobs_that_want_the_same_run_compute_it_once(tmp_path):
    jobs = [start(tmp_path, "method=rtn") for _ in range(2)]
    outputs = [job.communicate(timeout=300)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0]
    assert sum("is already stored" in output for output in outputs) == 1
