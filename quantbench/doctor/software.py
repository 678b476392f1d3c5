"""Checks of installed software: what the main job needs, and what it can use."""

import re
import shutil
from collections.abc import Iterator, Sequence
from importlib import metadata, resources

from quantbench import __version__
from quantbench.config import conf_dir
from quantbench.doctor.finding import Finding
from quantbench.errors import InputError

_NAME = re.compile(r"[A-Za-z0-9._-]+")
# distribution -> what it is for, what to type
_OPTIONAL = {
    "triton": ("kernels on a GPU", "pip install triton"),
    "compressed-tensors": ("loading what save=DIR writes", "pip install compressed-tensors"),
    "submitit": ("Slurm", "pip install 'quantbench[launchers]'"),
    "joblib": ("several processes", "pip install 'quantbench[launchers]'"),
    "ray": ("Ray clusters", "pip install 'quantbench[launchers]'"),
    "optuna": ("searching over settings", "pip install 'quantbench[launchers]'"),
    "llmcompressor": ("bench: GPTQ and AWQ beside ours", "pip install llmcompressor (in an environment of its own)"),
    "auto-round": ("bench: AutoRound beside ours", "pip install auto-round (in an environment of its own)"),
    "hqq": ("bench: HQQ beside ours", "pip install hqq"),
    "bitsandbytes": ("bench and tests: NF4 beside ours", "pip install bitsandbytes"),
    "llama-cpp-python": ("running what save=FILE.gguf writes", "pip install llama-cpp-python"),
}
_PROGRAMS: dict[str, tuple[Sequence[str], str, str]] = {
    "slurm": (("sbatch",), "submitting jobs", "run on a cluster's login node, or apt-get install slurm-wlm"),
    "pdflatex": (("pdflatex",), "compiling LaTeX tables", "apt-get install texlive-latex-extra texlive-science"),
    "chromium": (
        ("chromium", "chromium-browser", "google-chrome"),
        "testing the report page",
        "apt-get install chromium",
    ),
}


def installation() -> Iterator[Finding]:
    """quantbench itself: configuration and embedded model."""
    try:
        place = conf_dir()
        yield Finding("quantbench", True, f"{__version__}, configuration in {place}")
    except InputError as error:
        yield Finding("quantbench", False, str(error), "reinstall quantbench", required=True)
    model = resources.files("quantbench") / "assets" / "world" / "model.safetensors"
    there = model.is_file()
    detail = "in the package" if there else "missing"
    yield Finding("embedded model", there, detail, "reinstall quantbench", required=True)


def dependencies() -> Iterator[Finding]:
    """What pip should have installed with it."""
    try:
        needed = [entry for entry in metadata.requires("quantbench") or [] if "extra ==" not in entry]
    except metadata.PackageNotFoundError:
        return
    names = [match.group() for entry in needed if (match := _NAME.match(entry))]
    missing = [name for name in names if version_of(name) is None]
    for name in missing:
        yield Finding(name, False, "not installed", f"pip install {name}", required=True)
    yield Finding("dependencies", not missing, f"{len(names) - len(missing)} of {len(names)} installed", "see above")


def optional() -> Iterator[Finding]:
    """Libraries that something here can use."""
    for name, (purpose, remedy) in _OPTIONAL.items():
        version = version_of(name)
        detail = f"not installed ({purpose})" if version is None else f"{version} ({purpose})"
        yield Finding(name, version is not None, detail, remedy)


def programs() -> Iterator[Finding]:
    """Programs that pip does not give."""
    for name, (commands, purpose, remedy) in _PROGRAMS.items():
        path = next(filter(None, map(shutil.which, commands)), None)
        yield Finding(name, path is not None, f"{path or 'not on the PATH'} ({purpose})", remedy)


def version_of(distribution: str) -> str | None:
    """The installed version, None if there is none."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
