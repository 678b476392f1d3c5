"""The installed wheel is complete: configurations and the embedded model travel in it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with nothing but the unpacked wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder / "dist"), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    wheel = next((folder / "dist").glob("*.whl"))
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(folder / "site"),
        str(wheel),
    ]
    subprocess.run(install, check=True, capture_output=True)
    return folder


def quantbench(installed, cwd, *arguments):
    environment = os.environ | {"PYTHONPATH": str(installed / "site")}
    command = [sys.executable, "-m", "quantbench", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)


def test_wheel_is_imported_from_where_it_was_installed(installed, tmp_path):
    code = "import quantbench; print(quantbench.__file__)"
    environment = os.environ | {"PYTHONPATH": str(installed / "site")}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert str(installed) in done.stdout


def test_wheel_runs_the_main_job_from_any_directory(installed, tmp_path):
    arguments = ["method=awq", "bits=4", "evaluation.max_windows=2", "evaluation.limit=5", "logger=none"]
    done = quantbench(installed, tmp_path, *arguments, "calibration.num_samples=4")
    assert done.returncode == 0, done.stderr
    assert "perplexity" in done.stdout
    assert len(list((tmp_path / "results" / "runs").glob("*.parquet"))) == 1


def test_wheel_lists_every_method(installed, tmp_path):
    done = quantbench(installed, tmp_path, "list", "method")
    assert done.returncode == 0, done.stderr
    for path in (ROOT / "conf" / "method").glob("*.yaml"):
        assert path.stem in done.stdout
