"""W&B's agent drives quantbench: its own code turns the sweep of conf/ into command lines, and one of them is run."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from quantbench.__main__ import main
from quantbench.config import check_command_line, conf_dir
from tests.store.readback import offline_runs, read_run

utils = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
SWEEP = yaml.safe_load((conf_dir() / "wandb" / "sweep.yaml").read_text())
PARAMETERS = {name: choice["values"] for name, choice in SWEEP["parameters"].items()}


SMALL = ["evaluation.max_windows=2", "evaluation.tasks=[]"]


def command_line(values: dict) -> list[str]:
    """What the agent runs for one point of the grid, put together as its `_command_run` does."""
    made = utils.create_sweep_command_args({"args": {name: {"value": value} for name, value in values.items()}})
    known = made | {"interpreter": ["python"], "program": [SWEEP["program"]], "env": ["/usr/bin/env"]}
    parts = utils.create_sweep_command(list(SWEEP["command"]))
    return [word for part in parts for word in (known[part[2:-1]] if part.startswith("${") else [part])]


def test_every_point_of_the_grid_is_a_run_that_composes():
    points = [dict(zip(PARAMETERS, values, strict=True)) for values in itertools.product(*PARAMETERS.values())]
    assert len(points) == 12
    lines = [command_line(point) for point in points]
    assert all(line[:4] == ["/usr/bin/env", "python", "-m", "quantbench"] for line in lines)
    for point, line in [(points[0], lines[0]), (points[-1], lines[-1])]:
        (config,) = check_command_line(line[4:], multirun=False)
        assert (config.bits, config.group_size) == (point["bits"], point["group_size"])


def test_the_sweep_is_one_that_wandb_accepts():
    """Its client reads the file and asks for these; a grid needs parameters with values."""
    loaded = utils.load_sweep_config(str(conf_dir() / "wandb" / "sweep.yaml"))
    assert loaded == SWEEP
    assert SWEEP["method"] == "grid"
    assert SWEEP["metric"]["goal"] in ("minimize", "maximize")


def test_a_run_that_an_agent_started_reports_the_metric_of_the_sweep_under_the_agents_id(tmp_path):
    point = {name: values[0] for name, values in PARAMETERS.items()}
    line = [*command_line(point), *SMALL, f"results_dir={tmp_path}"]
    agents = {"WANDB_RUN_ID": "agent123", "WANDB_SWEEP_ID": "sweep123", "WANDB_MODE": "offline"}
    kept = {name: value for name, value in os.environ.items() if name != "WANDB_API_KEY"}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # `python` is this environment's
    done = subprocess.run(line, env=kept | agents | {"PATH": path}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (log,) = offline_runs(tmp_path)
    run = read_run(log)
    assert run.id == "agent123"
    assert run.summary[SWEEP["metric"]["name"]] > 0


def test_the_runs_of_a_sweep_stand_in_one_group_and_a_single_run_in_none(tmp_path):
    offline = ["method=rtn", "logger.wandb.mode=offline", f"results_dir={tmp_path}", *SMALL]
    assert main(["-m", *offline, "bits=3,4"]) == 0
    assert main([*offline, "bits=8"]) == 0
    runs = [read_run(log) for log in offline_runs(tmp_path)]
    groups = {run.config["bits"]: run.group for run in runs}
    (sweep,) = (tmp_path / "sweeps").iterdir()
    assert groups == {3: f"sweep {sweep.name}", 4: f"sweep {sweep.name}", 8: ""}
