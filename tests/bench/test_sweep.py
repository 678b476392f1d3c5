"""The sweep benchmark: what it measures, and that its command lines are valid."""

import json

import pytest

from quantbench.bench import main, sweep
from quantbench.config import check_command_line
from quantbench.errors import InputError

SMALL = ["sweep", "--samples", "2", "--seqlen", "32", "--bits", "3", "4", "--groups", "64"]


def test_a_walk_of_all_runs_is_compared_with_each_run_alone(tmp_path, capsys):
    assert main([*SMALL, "--methods", "rtn", "gptq", "--once", "--parts", "walk", "-o", str(tmp_path)]) == 0
    walk = json.loads((tmp_path / "sweep.json").read_text())["walk"]
    assert walk["runs"] == 4
    assert walk["alone, all"] == pytest.approx(2 * (walk["alone rtn"] + walk["alone gptq"]))
    assert walk["ratio"] == pytest.approx(walk["alone, all"] / walk["together"])
    assert "walk     ratio" in capsys.readouterr().out


def test_the_command_is_run_as_a_sweep_alone_and_again(tmp_path, monkeypatch):
    lines, seconds = [], iter([1.0, 10.0, 0.5, 3.0, 4.0])

    def timed(arguments, folder):
        lines.append(arguments)
        return next(seconds)

    monkeypatch.setattr(sweep, "_timed", timed)
    assert main([*SMALL, "--methods", "rtn", "--parts", "command", "-o", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "sweep.json").read_text())["command"]
    assert found["ratio"] == 0.7
    assert found["ratio, again"] == 20
    jobs = [check_command_line([a for a in line if a != "-m"], multirun="-m" in line) for line in lines]
    assert [len(job) for job in jobs] == [1, 2, 2, 1, 1]
    assert lines[1] == lines[2]


def test_a_folder_without_a_model_is_one_line(tmp_path):
    with pytest.raises(InputError, match="no model directory"):
        main(["sweep", "--model", str(tmp_path)])
