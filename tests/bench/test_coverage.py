import json

from quantbench.bench import main


def test_every_setting_is_simulated_and_stored(tmp_path, capsys):
    path = tmp_path / "deep" / "coverage.json"
    assert main(["coverage", "--trials", "2", "-o", str(path)]) == 0
    stored = json.loads(path.read_text())
    assert (stored["trials"], len(stored["rows"])) == (2, len(capsys.readouterr().out.splitlines()))
    assert {row["setting"].partition(",")[0] for row in stored["rows"]} >= {"windows", "documents", "items", "3 seeds"}
    assert all(0 <= row["coverage"] <= 1 and row["width"] > 0 for row in stored["rows"])
