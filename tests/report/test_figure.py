import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from quantbench.curves import curve_measurements
from quantbench.layers import LayerError, layer_measurements
from quantbench.report.figure import KINDS, main
from tests.report.figures.conftest import Runs, accuracy, kl, ratio
from tests.store import records


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    runs = Runs(tmp_path_factory.mktemp("runs"))
    for bits in (3, 4):
        for method, value in (("gptq", 1.1), ("rtn", 1.3)):
            identity = records.identity(method=method, rounding=method, bits=bits, bits_per_weight=bits + 0.5)
            change = value + 4 - bits
            runs.add(
                identity,
                records.perplexity(10 * change),
                ratio(change, change - 0.1, change + 0.1),
                kl(0.2),
                accuracy(0.5),
                *curve_measurements([2.0, 1.0]),
                *layer_measurements(["model.layers.0.q_proj"], {"model.layers.0.q_proj": LayerError(0.1, 0.01, 64)}),
            )
    return runs.store.root


_NEEDS = {"heatmap": ["--where", "bits=4"], "sensitivity": ["--where", "bits=4"], "layers": ["--where", "bits=4"]}
_NEEDS["training"] = _NEEDS["layers"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_bytes_twice_in_every_format(store, tmp_path, kind):
    written = {}
    for name in ("a", "b"):
        options = [*_NEEDS.get(kind, []), "--formats", "pdf,svg,png"]
        assert main([kind, str(store), "-o", str(tmp_path / name), *options]) == 0
        written[name] = [(tmp_path / f"{name}.{form}").read_bytes() for form in ("pdf", "svg", "png")]
    assert written["a"] == written["b"]
    pdf, svg, png = written["a"]
    assert pdf.startswith(b"%PDF-")
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert png.startswith(b"\x89PNG\r\n\x1a\n")


def test_pdf_embeds_truetype_and_holds_no_date(store, tmp_path):
    path = tmp_path / "a.pdf"
    assert main(["pareto", str(store), "-o", str(path)]) == 0
    content = path.read_bytes()
    assert b"/FontFile2" in content
    assert b"/Type3" not in content
    assert b"CreationDate" not in content


@pytest.mark.skipif(shutil.which("pdffonts") is None, reason="needs poppler's pdffonts (apt-get install poppler-utils)")
def test_poppler_finds_every_font_embedded(store, tmp_path):
    path = tmp_path / "a.pdf"
    assert main(["pareto", str(store), "-o", str(path)]) == 0
    fonts = subprocess.run(["pdffonts", str(path)], capture_output=True, text=True, check=True).stdout.splitlines()[2:]
    assert fonts
    assert all("TrueType" in font and font.split()[-5] == "yes" for font in fonts)


def test_figure_is_as_wide_as_asked(store, tmp_path):
    from PIL import Image

    for width in (3.3, 6.9):
        path = tmp_path / f"{width}.png"
        assert main(["pareto", str(store), "-o", str(path), "--width", str(width)]) == 0
        assert Image.open(path).width == round(300 * width)


def test_files_and_caption_are_told(store, tmp_path, capsys):
    assert main(["pareto", str(store), "-o", str(tmp_path / "a.svg")]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == str(tmp_path / "a.svg")
    assert "perplexity (ppl), lower is better; on text; protocol gptq-512" in out


_REFUSED = {
    "no-kind": ([], "KIND"),
    "unknown-kind": (["pie", "-o", "a.png"], "pareto"),
    "no-output": (["pareto"], "-o"),
    "no-format": (["pareto", "-o", "a"], "--formats"),
    "bad-ending": (["pareto", "-o", "a.gif"], ".pdf, .svg, .png"),
    "bad-format": (["pareto", "-o", "a", "--formats", "pdf,gif"], "gif"),
    "no-metric": (["pareto", "-o", "a.png", "--metric", "bleu"], "bleu"),
    "unknown-field": (["pareto", "-o", "a.png", "--by", "methd"], "did you mean method"),
    "bad-where": (["pareto", "-o", "a.png", "--where", "bits"], "FIELD=VALUE"),
    "no-run": (["pareto", "-o", "a.png", "--where", "bits=5"], "no stored run has bits=5"),
    "log-linear": (["pareto", "-o", "a.png", "--log", "--linear"], "--linear"),
    "bad-limits": (["pareto", "-o", "a.png", "--limits", "3"], "two numbers"),
    "bad-width": (["pareto", "-o", "a.png", "--width", "0"], "inches"),
    "foreign-option": (["pareto", "-o", "a.png", "--cols", "bits"], "--cols"),
}


@pytest.mark.parametrize("case", _REFUSED)
def test_nonsense_is_refused_in_one_line_and_nothing_is_written(store, tmp_path, monkeypatch, capsys, case):
    monkeypatch.chdir(tmp_path)
    (kind, *options), expected = _REFUSED[case][0] or [""], _REFUSED[case][1]
    assert main([kind, str(store), *options] if kind else []) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert expected in err
    assert list(tmp_path.iterdir()) == []


def test_unwritable_place_is_one_line(store, tmp_path, capsys):
    assert main(["pareto", str(store), "-o", str(tmp_path / "missing" / "a.png")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_drawing_imports_no_torch(store, tmp_path):
    arguments = ["pareto", str(store), "-o", str(tmp_path / "a.png")]
    code = (
        "import sys; from quantbench.report.figure import main; "
        f"assert main({arguments!r}) == 0; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
