"""Who may import whom, read from the source (DESIGN: formats <- methods <- models; evaluation, store, report apart)."""

import ast
from pathlib import Path

import pytest

import quantbench

ROOT = Path(quantbench.__file__).parent
NEUTRAL = {"processor", "errors", "progress", "measurement", "statistics", "paths", "axes", "arguments"}
NEUTRAL |= {"layers", "curves", "timings"}
ALLOWED = {
    "formats": {"formats"},
    "kernels": {"formats", "kernels"},
    "methods": {"formats", "kernels", "methods"},
    "models": {"formats", "kernels", "methods", "models"} | NEUTRAL,
    "cluster": {"cluster", "config"} | NEUTRAL,
    "training": {"training", "formats", "methods", "models", "data"} | NEUTRAL,
    "export": {"export", "formats", "models"} | NEUTRAL,
    "data": {"data"} | NEUTRAL,
    "evaluation": {"evaluation", "data"} | NEUTRAL,
    "store": {"store"} | NEUTRAL,
    "report": {"report", "store"} | NEUTRAL,
    "sweep": {"sweep", "run", "recording", "job", "session", "label", "config"} | NEUTRAL,
    "plugins": {"cluster", "config", "search", "session", "sweep"} | NEUTRAL,
    "inspection": {"inspection", "checks", "config", "data", "determinants", "formats", "label", "methods", "models"}
    | {"report", "store"}
    | NEUTRAL,
    "search": NEUTRAL,
    "bench": {"bench", "formats", "kernels", "methods", "models", "data", "evaluation", "config", "store"} | NEUTRAL,
}
TRITON = {"triton.py", "numeric.py", "compiled.py"}  # the files of kernels/ that may need it
HYDRA = {"config", "__main__", "plugins"}
OWNERS = {
    "hydra": HYDRA,
    "omegaconf": HYDRA,
    "wandb": {"store"},
    "matplotlib": {"report"},
    "submitit": {"cluster"},
    "ray": {"cluster"},
    "optuna": {"search"},
}
NO_TORCH = ("store", "report", "measurement", "statistics", "errors", "progress", "paths", "layers", "curves")


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return found


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("part", ALLOWED)
def test_part_imports_only_what_it_may(part):
    files = [path for path in FILES if part_of(path) == part]
    assert files
    for path in files:
        own = {name.split(".")[1] for name in imports(path) if name.startswith("quantbench.")}
        assert own <= ALLOWED[part], f"{path.relative_to(ROOT)} imports {sorted(own - ALLOWED[part])}"


@pytest.mark.parametrize("library", OWNERS)
def test_library_stays_in_its_place(library):
    for path in FILES:
        if any(name.split(".")[0] == library for name in imports(path)):
            assert part_of(path) in OWNERS[library], path.relative_to(ROOT)


def test_report_and_store_need_no_torch():
    for path in FILES:
        if part_of(path) in NO_TORCH:
            assert not any(name.split(".")[0] in ("torch", "transformers") for name in imports(path)), path


def test_math_needs_torch_and_the_standard_library_alone():
    import sys

    for path in FILES:
        if part_of(path) in ("formats", "kernels", "methods"):
            extra = {"triton"} if part_of(path) == "kernels" and path.name in TRITON else set()
            roots = {name.split(".")[0] for name in imports(path)} - {"torch", "quantbench"} - extra
            assert roots <= set(sys.stdlib_module_names), (path.relative_to(ROOT), roots)


def test_kernels_can_be_imported_without_triton():
    import subprocess
    import sys

    names = [".".join(p.relative_to(ROOT.parent).with_suffix("").parts) for p in FILES if part_of(p) == "kernels"]
    wanted = [name for name in names if name.split(".")[-1] not in ("triton", "numeric")]
    hidden = "import sys; sys.modules['triton'] = None\n" + "\n".join(f"import {name}" for name in wanted)
    subprocess.run([sys.executable, "-c", hidden], check=True)
