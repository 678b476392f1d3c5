import json
from pathlib import Path

import pytest

from quantbench.bench import main


def test_every_setting_is_simulated_and_stored(tmp_path, capsys):
    path = tmp_path / "deep" / "coverage.json"
    assert main(["coverage", "--trials", "2", "-o", str(path)]) == 0
    stored = json.loads(path.read_text())
    assert (stored["trials"], len(stored["rows"])) == (2, len(capsys.readouterr().out.splitlines()))
    assert {row["setting"].partition(",")[0] for row in stored["rows"]} >= {"windows", "documents", "items", "3 seeds"}
    assert all(0 <= row["coverage"] <= 1 and row["width"] > 0 for row in stored["rows"])


def test_the_stored_simulation_keeps_what_the_documentation_promises():
    stored = Path(__file__).parents[2] / "results" / "interval-coverage" / "coverage.json"
    if not stored.is_file():
        pytest.skip("results/ is not part of the source distribution")
    for row in json.loads(stored.read_text())["rows"]:
        if row["setting"].startswith("items, ") and "10%" not in row["setting"]:
            assert row["coverage"] > 0.95, row  # a handful of changes: too wide, never too narrow
        else:
            ten_correlated = (row["samples"], row["correlation"]) == (10, 0.4)
            assert (0.92 if ten_correlated else 0.93) <= row["coverage"] <= 0.97, row
