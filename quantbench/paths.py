"""Where reusable results are cached between runs."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """``$QUANTBENCH_CACHE``, or ``quantbench`` in the user's cache folder. Everything in it can be deleted."""
    if override := os.environ.get("QUANTBENCH_CACHE"):
        return Path(override).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "quantbench"
