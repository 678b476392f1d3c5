"""The kernel benchmark: every case is right before it is timed, and it runs where only torch is installed."""

import json
import subprocess
import sys
import time

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
    assert len(set(names)) == len(names) == 8 + 5 * 2 + 2 * (1 + 2)
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
    int4 = stored["crossovers"]["linear w4 g128 128x128"]
    assert int4.keys() == {"decoded, then dense", "ours", "torch int4pack"}
    assert set(int4.values()) <= {0, 1, 70}
    assert "linear w4 g128 128x128: faster than dense: decoded, then dense" in printed
    assert stored["machine"]["name"]
    assert stored["date"]


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


def test_a_contender_wins_up_to_where_a_dense_product_is_first_as_fast():
    def case(kind, rows, **medians):
        found = {name: {"median": seconds} for name, seconds in medians.items()} | {"absent": {"missing": "no"}}
        return {"case": f"linear {kind}, {rows} row{'s' * (rows > 1)}", "contenders": found}

    results = [
        case("w4", 1, dense=4, dense_short=3, ours=2, other=3),
        case("w4", 16, dense=5, dense_short=6, ours=4, other=1),
        case("w4", 64, dense=5, dense_short=6, ours=5, other=1),
        case("w4", 256, dense=5, dense_short=6, ours=1, other=1),
        case("w8", 4, dense=1, ours=2),
        {"case": "hadamard 64", "contenders": {}},
    ]
    assert kernels._crossovers(results) == {"linear w4": {"ours": 16, "other": 0}, "linear w8": {"ours": 0}}


def test_our_own_failure_is_not_a_line(monkeypatch):
    def broken(x, weight):
        raise RuntimeError("broken")

    monkeypatch.setattr(linear, "packed_linear", broken)
    with pytest.raises(RuntimeError, match="broken"):
        main([*QUICK, "--only", "linear w4", "--rows", "2"])


def test_the_processors_seconds_do_not_count_waiting(tmp_path):
    slept = race({"sleep": [lambda: time.sleep(0.02) or torch.zeros(1)]}, CPU, repeats=2, warmups=0)
    busy = race(
        {"sleep": [lambda: time.sleep(0.02) or torch.zeros(1)]}, CPU, repeats=2, warmups=0, clock=time.process_time
    )
    assert busy["sleep"].median < 0.01 < slept["sleep"].median
    path = tmp_path / "kernels.json"
    assert main([*QUICK, "--only", "linear w3", "--rows", "1", "--clock", "processor", "-o", str(path)]) == 0
    assert json.loads(path.read_text())["clock"] == "processor"


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
        (["--clock", "sun"], "invalid choice"),
    ],
)
def test_wrong_input_is_one_line(arguments, message, monkeypatch):
    monkeypatch.setattr(kernels, "_ceilings", lambda device, repeats, clock: {"bandwidth": 1.0, "compute": 1.0})
    monkeypatch.setattr(kernels, "cases", lambda *_: [])
    monkeypatch.setattr(kernels.w8a8_cases, "cases", lambda *_: [])
    with pytest.raises(InputError) as error:
        main(["kernels", "--device", "cpu", *arguments])
    assert message in str(error.value)
