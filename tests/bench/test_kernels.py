"""The kernel benchmark: every case is right before it is timed, and it runs where only torch is installed."""

import json
import subprocess
import sys

import pytest
import torch

from quantbench.bench import kernel_cases, kernels, main
from quantbench.bench.race import buffers_past_cache, race
from quantbench.errors import InputError
from quantbench.kernels import linear

QUICK = ["kernels", "--device", "cpu", "--sizes", "128", "--repeats", "2", "--warmups", "0"]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _few_buffers(monkeypatch):
    monkeypatch.setattr(kernel_cases, "buffers_past_cache", lambda nbytes, device: 2)


def test_every_case_gives_a_right_result_and_a_time(tmp_path, capsys):
    assert main([*QUICK, "--rows", "1", "70", "-o", str(tmp_path / "out" / "kernels.json")]) == 0
    stored = json.loads((tmp_path / "out" / "kernels.json").read_text())
    names = [case["case"] for case in stored["cases"]]
    assert len(set(names)) == len(names) == 7 + 5 * 2
    for case in stored["cases"]:
        ours = case["contenders"]["ours"]
        assert ours["cold"] > 0
        assert 0 < ours["low"] <= ours["median"] <= ours["high"] < 1, case["case"]
        work = case["nbytes"] if case["unit"] == "bandwidth" else case["flops"]
        assert ours["reached"] == pytest.approx(work / ours["median"])
        assert ours["share"] == pytest.approx(ours["reached"] / stored["ceilings"][case["unit"]])
    printed = capsys.readouterr().out
    assert "linear nf4 g64 128x128, 70 rows" in printed
    assert "textbook loop" in printed


def test_a_wrong_result_gets_no_time(capsys, monkeypatch):
    monkeypatch.setattr(linear, "packed_linear", lambda x, weight: torch.zeros(len(x), weight.shape[0]))
    assert main([*QUICK, "--only", "linear w4", "--rows", "2"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("  ours"))
    assert "relative error above" in line
    assert "us (" not in line


def test_a_rival_that_is_not_installed_is_a_line(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    assert main([*QUICK, "--only", "nf4", "--rows", "2"]) == 0
    printed = capsys.readouterr().out
    assert "bitsandbytes           import of bitsandbytes halted" in printed
    assert "ours" in printed


def test_turns_are_interleaved_and_the_first_call_counts_apart():
    seen = []

    def call(name):
        return lambda: seen.append(name) or torch.zeros(1)

    timings = race({"a": [call("a0"), call("a1")], "b": [call("b")]}, CPU, repeats=2, warmups=1)
    assert seen == ["a0", "a1", "b"] * 3
    assert 0 < timings["b"].low <= timings["b"].median <= timings["b"].high


def test_buffers_are_twice_the_cache():
    assert buffers_past_cache(16 * 2**20, CPU) == 4
    assert buffers_past_cache(2**40, CPU) == 1


def test_it_runs_where_torch_is_all_there_is(tmp_path):
    missing = ("hydra", "omegaconf", "wandb", "datasets", "lm_eval", "transformers", "pyarrow", "pandas", "triton")
    script = f"""
import sys, runpy
sys.modules.update(dict.fromkeys({missing}))
sys.argv = ["kernels", {", ".join(map(repr, QUICK[1:]))}, "--only", "linear w3", "--rows", "1"]
runpy.run_module("quantbench.bench.kernels", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "linear w3 g128 128x128, 1 row" in done.stdout


def test_registers_are_printed_without_a_gpu(capsys, monkeypatch):
    pytest.importorskip("triton", reason="Triton is not installed")
    from quantbench.kernels import compiled

    few = [s for s in compiled.specializations() if s.name == "linear w4 decode"]
    monkeypatch.setattr(compiled, "specializations", lambda: few)
    assert main(["kernels", "--registers"]) == 0
    cells = capsys.readouterr().out.splitlines()[-1].split(" | ")
    assert cells[0] == "| linear w4 decode"
    assert int(cells[1]) > 8
    assert int(cells[2]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sizes", "100"], "--sizes 100: allowed are multiples of 128"),
        (["--rows", "0"], "--rows: allowed are positive integers"),
        (["--repeats", "0"], "--repeats: at least 1"),
        (["--only", "nothing"], "--only nothing: no case has such a name"),
        (["--device", "tpu"], "invalid choice"),
    ],
)
def test_wrong_input_is_one_line(arguments, message, monkeypatch):
    monkeypatch.setattr(kernels, "_ceilings", lambda device, repeats: {"bandwidth": 1.0, "compute": 1.0})
    monkeypatch.setattr(kernels, "cases", lambda *_: [])
    with pytest.raises(InputError) as error:
        main(["kernels", "--device", "cpu", *arguments])
    assert message in str(error.value)
