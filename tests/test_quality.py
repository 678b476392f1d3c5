"""Lint, format and types are part of the tests."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "command", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]], ids=["lint", "format", "types"]
)
def test_source_is_clean(command):
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_file_leaves_work_undone():
    command = ["git", "ls-files", "*.py", "*.md", "*.yaml", "*.toml", "Makefile"]
    files = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.split()
    for name in files:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert "TO" + "DO" not in text, name
        assert "FIX" + "ME" not in text, name
