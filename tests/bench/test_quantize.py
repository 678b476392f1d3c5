"""The quantization benchmark: its rival, its bookkeeping, and what it says when something is missing."""

import json
import sys

import pytest
import torch

from quantbench.bench import main, quantize, runner, solver
from quantbench.bench.contenders import matches
from quantbench.bench.textbook import textbook_gptq
from quantbench.config import check_command_line
from quantbench.errors import InputError
from quantbench.formats import IntFormat
from quantbench.methods.grid import Grid
from quantbench.methods.range import MinMax
from quantbench.methods.rounding import GPTQ
from quantbench.methods.stats import SiteStats

# What a library's runner looks like from outside; this one quantizes nothing, and counts its calls.
COPYING_RUNNER = """
import json, pathlib, shutil, sys
model, ids, out = sys.argv[1:4]
shutil.copytree(model, out)
calls = pathlib.Path(__file__).with_name("calls")
calls.write_text(calls.read_text() + "x" if calls.exists() else "x")
print("a library may say something first")
print(json.dumps({"library": "copier 1", "seconds": 1e4}))
"""


@pytest.mark.parametrize("bits", [2, 4])
def test_our_codes_are_those_of_the_textbook_loop(bits):
    generator = torch.Generator().manual_seed(bits)
    stats = SiteStats.empty(96)
    stats.update(torch.randn(400, 96, generator=generator) * torch.exp(torch.randn(96, generator=generator)))
    weight = torch.randn(24, 96, generator=generator)
    ours = GPTQ().round(weight, Grid(IntFormat(bits=bits, group_size=32), MinMax()), stats).weight.codes
    assert torch.equal(ours, textbook_gptq(weight, stats.hessian, bits=bits, group_size=32))


def test_no_time_is_reported_when_codes_differ(monkeypatch):
    monkeypatch.setattr(solver, "SHAPES", ((8, 64),))
    monkeypatch.setattr(solver, "textbook_gptq", lambda weight, *_, **__: torch.zeros(weight.shape, dtype=torch.uint8))
    with pytest.raises(RuntimeError, match="of the codes differ from the textbook's"):
        solver.race(1)


@pytest.mark.parametrize("match", matches((4, 2)), ids=lambda match: match.ours.name)
def test_our_side_of_every_comparison_is_a_valid_run(match):
    config = check_command_line([*match.ours.arguments, "logger=none"], multirun=False)[0]
    assert config.format.bits == config.bits
    assert config.format.group_size == 64


def test_names_tell_contenders_with_different_work_apart():
    sides = [side for match in matches((4, 3)) for side in (match.ours, match.theirs)]
    assert len({side.name for side in sides}) == len(set(sides))


def test_a_study_compares_and_goes_on_where_it_stopped(tmp_path, capsys):
    (tmp_path / "llmcompressor_run.py").write_text(COPYING_RUNNER)
    out = tmp_path / "out"
    command = ["quantize", "--only", "rtn", "--solver-repeats", "0", "-o", str(out), "--runners", str(tmp_path)]
    command += ["--peer", f"llmcompressor={sys.executable}"]
    for _ in range(2):
        assert main(command) == 0
        text = capsys.readouterr().out
        row = next(line for line in text.splitlines() if line.startswith("| rtn"))
        seconds, theirs, ratio = (float(cell) for cell in row.split(" | ")[2:5])
        assert theirs == 1e4
        assert ratio == pytest.approx(1e4 / seconds, rel=0.2)
        assert (out / "table.md").read_text() == text
    assert (tmp_path / "calls").read_text() == "x"
    stored = json.loads((out / "ours-rtn-w4.json").read_text())
    assert len(stored["nll"]) == stored["setting"]["windows"]
    full = json.loads((out / "llmcompressor-rtn-w4.json").read_text())
    assert sum(stored["nll"]) > sum(full["nll"]), "four bits must cost something against the copy"


def test_repeats_go_in_turns_and_force_starts_again(tmp_path, capsys, monkeypatch):
    seen: list[str] = []

    def run(contender, setting):
        seen.append(contender.name)
        path = runner.result_path(contender, setting)
        result = runner.Result.read(path, setting.facts)
        runner.Result([*result.runs, {"seconds": 2.0 + len(result.runs)}], [1.0, 1.1]).write(path, setting.facts)

    monkeypatch.setattr(quantize, "run_once", run)
    command = ["quantize", "--only", "awq", "awq_linear", "--solver-repeats", "0", "-o", str(tmp_path)]
    command += ["--peer", f"llmcompressor={sys.executable}", "--repeats", "2"]
    main(command)
    turn = ["ours-awq-w4", "llmcompressor-awq-w4", "ours-awq_linear-w4"]  # one peer's run serves both
    assert seen == turn * 2
    main(command)
    assert seen == turn * 2
    assert "| awq | 4 | 2.5 | 2.5 | 1.00 |" in capsys.readouterr().out
    main([*command, "--force"])
    assert seen == turn * 4
    assert "| awq | 4 | 2.5 |" in capsys.readouterr().out


def test_a_missing_or_failing_peer_is_a_line_not_a_failure(tmp_path, capsys, monkeypatch):
    (tmp_path / "hqq_run.py").write_text("raise SystemExit('hqq has no such device')")

    def run(contender, setting):
        if contender.peer:
            runner.run_once(contender, setting)

    monkeypatch.setattr(quantize, "run_once", run)
    command = ["quantize", "--only", "rtn", "hqq", "--solver-repeats", "0", "-o", str(tmp_path / "out")]
    assert main([*command, "--runners", str(tmp_path), "--peer", f"hqq={sys.executable}"]) == 0
    text = capsys.readouterr().out
    assert "hqq-hqq-w4 failed: hqq has no such device" in text
    assert "llmcompressor-rtn-w4: not run, no interpreter given (--peer llmcompressor=PYTHON)" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "bench (nothing): allowed are coverage, decode, evaluation"),
        (["quantise"], "bench quantise: allowed are coverage, decode, evaluation"),
        (["quantize", "--only", "gtpq"], "--only gtpq: allowed are autoround, autoround_20, awq"),
        (["quantize", "--peer", "hqq=/no/python"], "no such interpreter"),
        (["quantize", "--peer", "hqqq=python"], "no hqqq_run.py in"),
        (["quantize", "--model", "/no/model"], "no model directory"),
    ],
)
def test_wrong_input_is_one_line(arguments, message, tmp_path):
    with pytest.raises(InputError) as error:
        main([*arguments, "-o", str(tmp_path), "--solver-repeats", "0"] if len(arguments) > 1 else arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
