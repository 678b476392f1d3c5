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
    for clock in ("wall", "cpu"):
        every = {name: cost[clock] for name, cost in walk.items()}
        assert every["alone, all"] == pytest.approx(2 * (every["alone rtn"] + every["alone gptq"]))
        assert every["ratio"] == pytest.approx(every["alone, all"] / every["together"])
    assert "walk     ratio" in capsys.readouterr().out


def test_the_command_is_run_as_a_sweep_alone_and_again(tmp_path, monkeypatch):
    lines, costs = [], iter(sweep.Cost(seconds, 2 * seconds) for seconds in (1.0, 10.0, 0.5, 3.0, 4.0))

    def timed(arguments, folder):
        lines.append(arguments)
        return next(costs)

    monkeypatch.setattr(sweep, "_timed", timed)
    assert main([*SMALL, "--methods", "rtn", "--parts", "command", "-o", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "sweep.json").read_text())["command"]
    assert found["ratio"] == {"wall": 0.7, "cpu": 0.7}
    assert found["ratio, again"] == {"wall": 20, "cpu": 20}
    assert found["alone, all"] == {"wall": 7, "cpu": 14}
    jobs = [check_command_line([a for a in line if a != "-m"], multirun="-m" in line) for line in lines]
    assert [len(job) for job in jobs] == [1, 2, 2, 1, 1]
    assert lines[1] == lines[2]


def test_a_method_may_bring_settings_but_not_to_the_command(tmp_path):
    methods = ["--methods", "awq,transform.objective=linear"]
    assert main([*SMALL, *methods, "--once", "--parts", "walk", "-o", str(tmp_path)]) == 0
    assert "alone awq" in json.loads((tmp_path / "sweep.json").read_text())["walk"]
    with pytest.raises(InputError, match="allowed without the part command"):
        main([*SMALL, *methods])


def test_a_folder_without_a_model_is_one_line(tmp_path):
    with pytest.raises(InputError, match="no model directory"):
        main(["sweep", "--model", str(tmp_path)])
