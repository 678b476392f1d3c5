"""Wrong input: one line that names what is allowed, exit code 2, nothing written."""

import subprocess
import sys

import pytest

from quantbench.__main__ import main

WRONG = {
    "unknown-method": (["method=gptk"], ["method=gptk", "allowed are", "did you mean gptq?"]),
    "bits-9": (["bits=9"], ["bits=9", "2 to 8"]),
    "bits-word": (["bits=four"], ["bits", "four"]),
    "group_size-0": (["group_size=0"], ["group_size=0", "positive integer"]),
    "unknown-key": (["bit=3"], ["bit: unknown key", "did you mean bits?"]),
    "unknown-field": (["method=gptq", "rounding.dmp_percent=1"], ["rounding.dmp_percent", "rounding.damp_percent"]),
    "field-range": (["method=gptq", "rounding.damp_percent=7"], ["rounding.damp_percent=7", "allowed"]),
    "stats": (["stats=both"], ["stats=both", "propagate, fp"]),
    "unknown-verb": (["tabel"], ["tabel", "did you mean table?"]),
    "no-path": (["model=local"], ["model.path"]),
    "missing-path": (["model=local", "model.path=nowhere"], ["nowhere"]),
    "missing-corpus": (["evaluation.corpus=nothing.txt"], ["nothing.txt"]),
    "empty-corpus": (["evaluation.corpus=empty.txt"], ["empty.txt", "empty"]),
    "short-corpus": (["evaluation.corpus=short.txt"], ["short.txt", "window"]),
    "unknown-task": (["evaluation.tasks=[world_fact]"], ["world_fact", "world_facts"]),
    "no-hub": (["model=hub", "model.name=someone/something"], ["someone/something", "model=local"]),
    "device": (["device=tpu"], ["device=tpu", "allowed"]),
    "protocol": (["evaluation.protocol=gptq"], ["evaluation.protocol", "gptq-2048"]),
    "sweep-with-one-wrong": (["-m", "bits=3,9"], ["bits=9", "2 to 8"]),
    "forgotten-m": (["method=rtn,gptq"], ["method=rtn,gptq", "add -m"]),
    "forgotten-m-number": (["bits=3,4"], ["bits=3,4", "add -m"]),
    "unknown-flag": (["--frce"], ["--frce"]),
    "unknown-addition": (["+foo=1"], ["foo", "unknown key"]),
    "deleted-key": (["~bits"], ["bits"]),
    "skip-typo": (["allocation.skip=[dwn_proj]"], ["dwn_proj", "down_proj"]),
    "skip-inputs-typo": (["activation=int8_token", "activation.skip=[mlp_ut]"], ["mlp_ut", "mlp_out", "down_proj"]),
    "skip-all-inputs": (["activation=int8_token", "activation.skip=[attention*,mlp*]"], ["nothing is left"]),
    "skip-all": (["allocation.skip=['*']"], ["nothing is left"]),
    "packed-bits": (
        ["bits=7", "evaluation.execution=packed"],
        ["q_proj: evaluation.execution=packed: bits=7", "allowed"],
    ),
    "packed-save": (["save=x.gguf", "evaluation.execution=packed"], ["save=x.gguf", "evaluation.execution=fake"]),
    "table-nothing": (["table", "nowhere"], ["nowhere"]),
    "list-unknown": (["list", "metod"], ["metod", "method"]),
}


def one_line(error_output):
    lines = [line for line in error_output.splitlines() if line.strip()]
    assert len(lines) == 1, error_output
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG.keys())
def test_wrong_input_is_one_line_and_exit_code_2(case, tmp_path, monkeypatch, capfd):
    arguments, expected = case
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "short.txt").write_text("one two three")
    code = main(arguments)
    line = one_line(capfd.readouterr().err)
    assert code == 2
    for part in expected:
        assert part in line
    assert {path.name for path in tmp_path.iterdir()} <= {"empty.txt", "short.txt", "results"}
    assert not list(tmp_path.rglob("*.parquet"))


def test_wrong_input_in_a_fresh_process(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "quantbench", "method=awqq"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2
    assert "did you mean awq" in one_line(done.stderr)
