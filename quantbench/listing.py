"""``python -m quantbench list``: everything that can be chosen, a line each."""

from collections.abc import Sequence
from pathlib import Path

from quantbench.arguments import ArgumentParser
from quantbench.config import GROUPS, conf_dir
from quantbench.errors import InputError


def main(argv: Sequence[str]) -> int:
    """Print the choices of one group or of all."""
    parser = ArgumentParser(prog="quantbench list", description="Everything that can be chosen.")
    parser.add_argument("group", nargs="*", help=f"any of: {', '.join(GROUPS)}; default: all")
    groups = parser.parse_args(argv).group or list(GROUPS)
    for group in groups:
        if group not in GROUPS:
            raise InputError(f"{group}: unknown group; allowed are {', '.join(GROUPS)}")
    for group in groups:
        choices = {path.stem: _summary(path) for path in sorted((conf_dir() / group).glob("*.yaml"))}
        width = max(len(name) for name in choices)
        print(f"{group}:")
        for name, line in choices.items():
            print(f"  {name:<{width}}  {line}")
    return 0


def _summary(path: Path) -> str:
    """The first comment of the file that is not a Hydra directive."""
    comments = (line[1:].strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
    return next((comment for comment in comments if not comment.startswith("@package")), "")
