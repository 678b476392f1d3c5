"""A sweep of 12 small runs of the embedded model, issued as a user would."""

import subprocess
import sys
from pathlib import Path

from quantbench.store.parquet import Store

RUNS = ["method=rtn", "bits=2,3,4", "group_size=32,64", "symmetric=true,false"]
SMALL = ["evaluation.max_windows=2", "evaluation.tasks=[]", "logger=none", "device=cpu", "results_dir=out"]
CODE = Path(__file__).parents[2]


def issue(folder: Path, *arguments: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    """Start the sweep in ``folder``."""
    command = [sys.executable, "-m", "quantbench", "-m", *RUNS, *SMALL, *arguments]
    path = {"PYTHONPATH": str(CODE)}
    return subprocess.Popen(
        command, cwd=folder, env=environment | path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def written(folder: Path) -> dict[str, int]:
    """The stored runs' files, and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in (folder / "out" / "runs").glob("*.parquet")}


def assert_complete(folder: Path) -> None:
    """12 runs, each once, each whole."""
    frame = Store(folder / "out").load()
    settings = ["bits", "group_size", "symmetric"]
    assert len(frame) == len(frame.drop_duplicates([*settings, "metric", "task"]))
    assert frame.run_id.nunique() == len(frame.drop_duplicates(settings)) == 12
    assert (frame.groupby("run_id").metric.nunique() == frame.metric.nunique()).all()
