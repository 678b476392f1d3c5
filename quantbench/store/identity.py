"""Where a number comes from: the hash of what determines it, the code, the libraries and the machine."""

import hashlib
import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from quantbench.processor import processor_name

_DISTRIBUTIONS = (
    "quantbench",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "lm_eval",
    "datasets",
    "numpy",
    "pyarrow",
    "wandb",
)
_RUN_ID_DIGITS = 16
_GIT_TIMEOUT_SECONDS = 10


def canonical_json(value: object) -> str:
    """JSON in which equal contents are equal text: sorted keys, no spaces, 1.0 written 1 (as in RFC 8785).

    Raises:
        TypeError: something that is not a mapping with string keys, a sequence, a number, text, bool or None.
        ValueError: NaN or an infinity.
    """
    return json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _canonical(value: object) -> object:
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and value.is_integer() else value
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"keys must be text: {sorted(map(repr, value))}")
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [_canonical(item) for item in value]
    raise TypeError(f"{value!r} of type {type(value).__name__} has no canonical JSON")


def run_id(determinants: Mapping[str, object]) -> str:
    """16 hex digits of the SHA-256 of the canonical JSON of everything that determines a result."""
    return hashlib.sha256(canonical_json(determinants).encode()).hexdigest()[:_RUN_ID_DIGITS]


def versions() -> dict[str, str]:
    """Versions of Python and of the installed libraries that a result can depend on, without importing them."""
    found = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_state(path: str | Path) -> tuple[str | None, bool | None]:
    """Commit of the checkout that tracks ``path``, and whether anything below ``path`` differs from it.

    New files count as a difference: a method is added as a file. Returns (None, None) outside git, without git, and
    for code that a repository merely contains (an environment inside a checkout) but does not track.
    """
    commit = _git(path, "rev-parse", "HEAD")
    if not commit or not _git(path, "ls-files", "--", "."):
        return None, None
    status = _git(path, "status", "--porcelain", "--", ".")
    return commit, None if status is None else bool(status)


def _git(path: str | Path, *arguments: str) -> str | None:
    # A hook's GIT_DIR would answer for another repository than the one that holds the code.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(path), *arguments],
            capture_output=True,
            text=True,
            env=environment,
            timeout=_GIT_TIMEOUT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def machine() -> dict[str, str | int]:
    """Operating system, processor, cores this process may use and bytes of memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"os": platform.platform(), "cpu": processor_name(), "cores": cores, "memory": memory}
