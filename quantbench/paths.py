"""Where reusable results are cached between runs."""

import os
from pathlib import Path

from quantbench.errors import InputError


def cache_dir() -> Path:
    """``$QUANTBENCH_CACHE``, or ``quantbench`` in the user's cache folder. Everything in it can be deleted."""
    if override := os.environ.get("QUANTBENCH_CACHE"):
        return Path(override).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "quantbench"


def usable_cache_dir() -> Path:
    """The same folder, created.

    Raises:
        InputError: it cannot be created or written.
    """
    folder = cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError("no permission to write")
    except OSError as error:
        raise InputError(
            f"the cache {folder} cannot be used ({error}); set QUANTBENCH_CACHE to another folder"
        ) from error
    return folder
