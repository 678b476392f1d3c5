"""``python -m quantbench compact``: the files of many runs put into two."""

from collections.abc import Sequence
from pathlib import Path

from quantbench.arguments import ArgumentParser
from quantbench.errors import InputError
from quantbench.store.parquet import Store


def main(argv: Sequence[str]) -> int:
    """Compact the store that ``argv`` names and say how many runs were moved."""
    parser = ArgumentParser(
        prog="quantbench compact",
        description="Move the runs of a results folder into runs.parquet and samples.parquet, which load fast. Safe "
        "while other jobs write; what is no whole run is named and left.",
    )
    parser.add_argument("results", nargs="?", default="results", help="results folder (%(default)s)")
    root = Path(parser.parse_args(argv).results)
    if not root.is_dir():
        raise InputError(f"no results folder at {root}")
    moved = Store(root).compact()
    print(f"{root}: {moved} run{'' if moved == 1 else 's'} moved into runs.parquet and samples.parquet")
    return 0
