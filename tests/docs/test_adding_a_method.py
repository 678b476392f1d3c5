"""The page on adding a method, followed to the letter in a copy of the project."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "quantbench" / "docs" / "adding-a-method.md").read_text(encoding="utf-8")
FILES = re.findall(r"^`([^`\n]+)`\n\n```(?:python|yaml)\n(.*?)^```", PAGE, flags=re.M | re.S)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    for folder in ("quantbench", "conf"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in FILES:
        path = root / name
        assert not path.exists(), name
        path.write_text(text, encoding="utf-8")
    return root


def blocks(language):
    found = re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.M | re.S)
    return [line for block in found for line in block.splitlines()]


def run(command, project):
    words = command.split()
    assert words.pop(0) == "python"
    environment = {**os.environ, "PYTHONPATH": str(project), "WANDB_MODE": "disabled"}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=300)


def test_the_method_takes_thirty_lines():
    assert len(FILES) == 3
    assert sum(bool(line.strip()) for _, text in FILES for line in text.splitlines()) <= 34


def test_every_command_of_the_page_runs(project):
    outputs = []
    for command in blocks("sh"):
        done = run(command, project)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        outputs.append(done.stdout)
    listed, alone, _, table = outputs
    assert "groups are clipped at width of them" in listed
    assert "sigma" in alone
    rows = {tuple(line.replace("|", " ").split()[:2]) for line in table.splitlines()}
    assert {("minmax", "rtn"), ("minmax", "gptq"), ("sigma", "rtn"), ("sigma", "gptq")} <= rows


def test_its_numbers_are_those_of_the_formula(project):
    """Clipped at 2.5 standard deviations, in the float64 of numpy."""
    code = (
        "import torch, numpy; from quantbench.formats import IntFormat;"
        "from quantbench.methods.range.sigma import Sigma;"
        "w = torch.randn(5, 64, generator=torch.manual_seed(0)) ** 3;"
        "p = Sigma().fit(w, IntFormat(bits=4, group_size=64, symmetric=True, scale_dtype='float32'), None);"
        "d = w.double().numpy(); reach = numpy.minimum(abs(d).max(1), 2.5 * d.std(1));"
        "numpy.testing.assert_allclose(p.scale[:, 0].numpy(), 2 * reach / 15, rtol=1e-5)"
    )
    environment = {**os.environ, "PYTHONPATH": str(project)}
    subprocess.run([sys.executable, "-c", code], cwd=project, env=environment, check=True, timeout=120)


def test_a_wrong_setting_is_refused_as_the_page_says(project):
    (command,) = blocks("sh-fails")
    done = run(command, project)
    assert done.returncode == 2
    assert done.stderr.strip() == "error: range.width=-1.0: allowed are positive numbers"
