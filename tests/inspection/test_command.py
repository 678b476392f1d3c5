"""The command from end to end on the embedded model, and how it says no."""

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import quantbench
from quantbench.__main__ import main
from quantbench.store.inspection import FILE, columns, read

SMALL = ["calibration.num_samples=2", "calibration.seqlen=64"]
WRONG = {
    "sweep": (["bits=2,3"], "2 runs: inspect looks at one"),
    "bits": (["bits=9"], "bits=9"),
    "key": (["bit=4"], "did you mean bits?"),
    "samples": (["--samples", "-1"], "--samples"),
    "training": (["method=qat"], "training=qat: inspect trains nothing; allowed is none"),
    "formats": (["--formats", "gif"], "--formats gif: allowed are pdf, svg, png"),
    "read": (["--read", "nowhere"], "no inspection in nowhere"),
    "read-and-compute": (["--read", "nowhere", "bits=4"], "bits=4: --read"),
    "model": (["model=local", "model.path=nowhere"], "nowhere"),
    "output": (["-o", "file/below"], "file/below"),
}


@pytest.fixture(scope="module")
def inspected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inspect")
    assert (
        main(
            ["inspect", *SMALL, "method=rtn", "bits=3", "--samples", "1", "--formats", "svg", "-o", str(folder / "out")]
        )
        == 0
    )
    return folder / "out"


def test_a_table_of_every_linear_and_four_figures_are_written(inspected):
    names = {path.name for path in inspected.iterdir()}
    assert names == {FILE, "kurtosis.svg", "weights.svg", "outliers.svg", "sensitivity.svg"}
    found = read(inspected)
    assert len(found.rows) == 2 * (28 + 16)  # 28 linears and 16 inputs of the four blocks, before and after
    assert found.subject["samples"] == 1
    assert found.subject["method"] == "rtn"
    assert pq.read_schema(inspected / FILE).names == list(columns())


def test_what_is_stored_is_shown_and_drawn_again(inspected, tmp_path, capsys):
    assert main(["inspect", "--read", str(inspected), "-o", str(tmp_path), "--formats", "svg", "--top", "1"]) == 0
    printed = capsys.readouterr().out
    assert "rtn | int 3 bit, group 128 | embedded | float32" in printed
    assert "self_attn.q_proj x 4" in printed
    assert (tmp_path / "kurtosis.svg").read_bytes() == (inspected / "kurtosis.svg").read_bytes()


@pytest.mark.parametrize(("arguments", "expected"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_one_line_and_leaves_nothing(arguments, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("a file, where a folder is wanted")
    assert main(["inspect", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert expected in said.err
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_page_lists_every_column():
    page = (Path(quantbench.__file__).parent / "docs" / "inspect.md").read_text(encoding="utf-8")
    assert dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", page, flags=re.MULTILINE)) == columns()
