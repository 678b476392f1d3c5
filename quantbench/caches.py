"""``python -m quantbench cache``: what is kept between runs to save time, and getting rid of it."""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from quantbench.arguments import ArgumentParser
from quantbench.errors import InputError
from quantbench.paths import cache_dir

KINDS = {
    "baseline": "full precision's scores and final states",
    "digests": "hashes of model files",
    "statistics": "calibration statistics of full-precision activations",
    "training": "checkpoints of trainings that are not done",
    "models": "models trained on the embedded world",
    "tasks": "the embedded world's tasks for lm-eval",
}


def main(argv: Sequence[str]) -> int:
    """List or clear the cache folder."""
    parser = ArgumentParser(prog="quantbench cache", description="What is kept between runs; all of it can be deleted.")
    parser.add_argument("action", nargs="?", default="list", choices=("list", "clear"))
    parser.add_argument("kinds", nargs="*", help="which to clear (default: all)")
    given = parser.parse_args(argv)
    folder = cache_dir()
    present = {path.name: path for path in sorted(folder.iterdir()) if path.is_dir()} if folder.is_dir() else {}
    for kind in given.kinds:
        if kind not in present:
            raise InputError(f"{kind}: not in the cache; there are {', '.join(present) or 'no entries'}")
    if given.action == "clear":
        _clear([present[kind] for kind in given.kinds or present])
    else:
        _show(folder, [present[kind] for kind in given.kinds or present])
    return 0


def _show(folder: Path, kinds: Sequence[Path]) -> None:
    print(f"{folder}{'' if kinds else ' is empty'}")
    for kind in kinds:
        entries = [entry for entry in kind.iterdir() if not entry.name.startswith(".")]
        used = max((entry.stat().st_mtime for entry in entries), default=0.0)
        size, days = _bytes(kind), (time.time() - used) / 86400
        what = KINDS.get(kind.name, "")
        print(
            f"{kind.name:<12} {len(entries):>6} entries {size / 1e6:>10.1f} MB  last used {days:.1f} days ago  {what}"
        )


def _clear(kinds: Sequence[Path]) -> None:
    for kind in kinds:
        size = _bytes(kind)
        try:
            shutil.rmtree(kind)
        except OSError as error:
            raise InputError(f"cannot remove {kind}: {error.strerror or error}") from error
        print(f"removed {kind} ({size / 1e6:.1f} MB)")


def _bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
