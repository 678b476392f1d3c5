"""A study from nothing to its table, interrupted in between, and its status on the way."""

import json

import pytest
import yaml

from quantbench.__main__ import main
from quantbench.store.parquet import Store
from tests.store import records

STUDY = {
    "name": "small",
    "title": "A small study",
    "common": ["evaluation.max_windows=2", "evaluation.tasks=[]", "calibration.num_samples=2", "logger=none"],
    "sweeps": [{"method": ["fp16", "rtn"], "bits": 3}, ["method=gptq", "bits=3"]],
    "tables": [{"output": "perplexity.md", "arguments": ["--rows", "method", "--cols", "bits"]}],
    "figures": [{"output": "front.svg", "arguments": ["pareto"]}],
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with the study."""
    path = tmp_path / "experiments" / "small" / "study.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(STUDY))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def status(capfd, *arguments):
    capfd.readouterr()
    assert main(["status", *arguments, "--json"]) == 0
    return json.loads(capfd.readouterr().out)


def test_a_study_runs_what_is_missing_and_renders(folder, capfd):
    assert main(["study", "small", "--dry-run"]) == 0
    output = capfd.readouterr().out
    assert "3 runs: 0 stored, 3 missing" in output
    assert "1 models scored in full precision, 1 calibrations" in output
    assert "unknown for 3 runs" in output
    assert not (folder / "results").exists()

    assert main(["-m", *STUDY["common"], "method=rtn", "bits=3", "results_dir=results/small"]) == 0
    assert status(capfd, "small")["counts"] == {"done": 1, "running": 0, "failed": 0, "missing": 2}
    capfd.readouterr()
    assert main(["study", "small", "--dry-run"]) == 0
    assert "3 runs: 1 stored, 2 missing" in capfd.readouterr().out

    assert main(["study", "small"]) == 0
    output = capfd.readouterr().out
    assert "2 runs done" in output
    root = folder / "results" / "small"
    assert {path.name for path in root.iterdir() if path.is_file()} == {
        "runs.parquet", "samples.parquet", "perplexity.md", "front.svg",
    }  # fmt: skip
    assert "gptq" in (root / "perplexity.md").read_text()
    assert status(capfd, "small")["counts"]["done"] == 3

    table = (root / "perplexity.md").read_bytes()
    before = (root / "runs.parquet").stat().st_mtime_ns
    capfd.readouterr()
    assert main(["study", "small"]) == 0
    assert "3 stored, 0 missing" in capfd.readouterr().out
    assert (root / "runs.parquet").stat().st_mtime_ns == before
    assert (root / "perplexity.md").read_bytes() == table

    assert main(["study", "small", "--dry-run", "seed=1"]) == 0
    output = capfd.readouterr().out
    assert "3 runs: 2 stored, 1 missing" in output, "only what is calibrated depends on the seed"
    assert "s one after the other for 1 runs" in output
    assert "host at most so far" in output


def test_rendering_without_runs_is_one_line_a_file(folder, capfd):
    assert main(["study", "small", "--render-only", "--results", "empty"]) == 2
    captured = capfd.readouterr()
    assert "perplexity.md: not rendered" in captured.out
    assert "no results at empty" in captured.err
    assert not (folder / "empty").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["smal"], " small"),
        (["small", "results_dir=x"], "give --results"),
        (["small", "bitz=3"], "bitz: unknown key"),
        (["small", "+rounding._target_=os.system"], "cannot name code"),
    ],
)
def test_wrong_input_to_a_study_is_one_line(folder, capfd, arguments, message):
    assert main(["study", *arguments]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert message in line
    assert not (folder / "results").exists()


def test_status_tells_done_running_failed_and_missing(folder, capfd):
    root = folder / "store"
    store = Store(root)
    store.write(records.identity(run_id="a1", variant="rounding.block_size=64"), records.with_samples())
    store.write_failure(records.failure(run_id="b2"))
    store.write_failure(records.failure(run_id="c3"))
    store.claims.take("c3")
    assert main(["status", str(root)]) == 0
    summary, running, failed = capfd.readouterr().out.splitlines()
    assert summary == f"{root}: 1 done, 1 running, 1 failed"
    assert "c3" in running
    assert "process" in running
    reason = "QuantizationError in quantize: model.layers.0: not positive definite"
    assert failed.split(maxsplit=4) == ["failed", "b2", "gptq", "bits=4", reason]
    store.claims.release("c3")
    found = status(capfd, str(root))
    assert {run["run_id"]: run["state"] for run in found["runs"]} == {"a1": "done", "b2": "failed", "c3": "failed"}
    assert main(["status", str(root), "--all"]) == 0
    assert "gptq bits=4 rounding.block_size=64" in capfd.readouterr().out


def test_status_of_nothing_is_one_line(folder, capfd):
    assert main(["status", "nowhere"]) == 2
    assert capfd.readouterr().err.startswith("error: study nowhere: no such file, folder or study")
