import re
import shutil
import subprocess

import pytest

from tests.report import sampled
from tests.store import records

_PREAMBLE = (
    "\\documentclass{article}\n\\usepackage[T1]{fontenc}\n\\usepackage{booktabs,siunitx}\n\\sisetup{detect-all}\n"
)


@pytest.fixture
def every_feature(results):
    """Groups, marks, emphasis, missing and enormous numbers, letters that LaTeX treats as commands."""
    results.add(records.full_precision(), sampled.perplexity(0.0))
    results.add(records.identity(), sampled.perplexity(0.03))
    results.add(records.identity(method="a_b&c%", contaminated=True), sampled.perplexity(0.031, noise=1))
    results.add(records.uncalibrated(method="rtn", variant="rounding.x=50$#{y}~^\\"), sampled.perplexity(0.5, noise=2))
    return results.add(records.identity(bits=2), records.perplexity(1234567.0, baseline=None))


def test_the_table_is_booktabs_with_numbers_for_siunitx(every_feature):
    _, out, _ = every_feature.table(
        "--group", "bits", "--cols", "task", "--with", "bits_per_weight", "--format", "latex"
    )
    lines = out.splitlines()
    assert lines[:3] == ["% \\usepackage{booktabs,siunitx} \\sisetup{detect-all}", "\\begin{table}", "\\centering"]
    assert "\\begin{tabular}{lrr}" in lines
    assert "\\multicolumn{3}{l}{\\emph{bits=4}} \\\\" in lines
    best = next(line for line in lines if line.startswith("gptq & \\num{4.50} & \\textbf{"))
    tied = next(line for line in lines if line.startswith("a\\_b\\&c\\% & "))
    assert re.search(r"\\textbf{\\num{10\.\d+}} \\\\", best)
    assert re.search(r"\\underline{\\num{10\.\d+}}\\rlap{\$\^\\dagger\$} \\\\", tied)
    assert "gptq & \\num{4.50} & \\num{1.23e+06} \\\\" in lines


def test_special_characters_are_printed_as_they_are(every_feature):
    _, out, _ = every_feature.table("--where", "bits=4", "--format", "latex")
    assert r"rounding.x=50\$\#\{y\}\textasciitilde{}\textasciicircum{}\textbackslash{} (rtn)" in out
    assert len(re.findall(r"(?<!\\){", out)) == len(re.findall(r"(?<!\\)}", out))


def test_decimal_points_stand_below_each_other(results):
    results.add(records.full_precision(), records.perplexity(10.0, half=0.5))
    results.add(records.uncalibrated(method="rtn"), records.perplexity(13.25, half=12.0))
    _, out, _ = results.table("--format", "latex")
    assert "rtn & \\num{13}\\phantom{.00} \\\\" in out


@pytest.mark.skipif(
    shutil.which("pdflatex") is None, reason="pdflatex is not installed (texlive-latex-extra, -science)"
)
@pytest.mark.parametrize(
    "options",
    [["--where", "bits=4"], ["--group", "bits", "--cols", "task", "--with", "bits_per_weight,model_bytes"]],
    ids=["plain", "grouped"],
)
def test_pdflatex_compiles_the_table_without_a_complaint(every_feature, tmp_path, options):
    _, table, _ = every_feature.table(*options, "--format", "latex")
    document = tmp_path / "paper.tex"
    document.write_text(f"{_PREAMBLE}\\begin{{document}}\n{table}\\end{{document}}\n", encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", document.name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "paper.pdf").stat().st_size > 5000
    assert not re.search(r"^(!|LaTeX Warning: .*undefined|Missing character)", done.stdout, re.MULTILINE)
