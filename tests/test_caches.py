"""``python -m quantbench cache``: seeing what is kept between runs, and getting rid of it."""

from quantbench.__main__ import main


def test_what_is_cached_is_shown_and_cleared(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("QUANTBENCH_CACHE", str(tmp_path))
    assert main(["cache"]) == 0
    assert "empty" in capsys.readouterr().out
    (tmp_path / "digests").mkdir()
    (tmp_path / "digests" / "a").write_text("b")
    (tmp_path / "baseline" / "x").mkdir(parents=True)
    (tmp_path / "baseline" / "x" / "states").write_bytes(bytes(3_000_000))
    assert main(["cache", "list"]) == 0
    shown = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[1:]}
    assert "1 entries        3.0 MB" in shown["baseline"]
    assert main(["cache", "clear", "baseline"]) == 0
    assert not (tmp_path / "baseline").exists()
    assert (tmp_path / "digests" / "a").exists()
    assert main(["cache", "clear", "nothing"]) == 2
    assert "nothing: not in the cache; there are digests" in capsys.readouterr().err
    assert main(["cache", "clear"]) == 0
    assert list(tmp_path.iterdir()) == []


def test_an_action_that_does_not_exist_is_refused(capsys):
    assert main(["cache", "burn"]) == 2
    assert "burn" in capsys.readouterr().err
