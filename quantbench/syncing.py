"""``python -m quantbench wandb-sync``: a store that was made offline, to Weights & Biases."""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from quantbench.arguments import ArgumentParser
from quantbench.errors import InputError
from quantbench.report.figure import make_figure, parser, render
from quantbench.report.page.illustrations import attempts
from quantbench.store.wandb_client import Wandb
from quantbench.store.wandb_sync import sync

if TYPE_CHECKING:
    import pandas as pd


def main(argv: Sequence[str]) -> int:
    """Send what W&B does not have yet, and say what that was."""
    arguments = _parser().parse_args(argv)
    try:
        cfg = Wandb(arguments.mode, arguments.project, arguments.entity, arguments.group, arguments.tag)
    except ValueError as error:
        raise InputError(str(error).replace("logger.wandb.", "--")) from error
    results = Path(arguments.results)
    with TemporaryDirectory() as folder:
        figures = partial(_figures, results=results, folder=Path(folder))
        done = sync(results, cfg, figures=figures, again=arguments.again)
    for problem in done.problems:
        print(f"warning: {problem}", file=sys.stderr)
    print(f"{len(done.sent)} runs and {len(done.comparisons)} comparisons sent, {done.known} runs were there already")
    for sent in dict.fromkeys([*done.sent[-1:], *done.comparisons]):
        print(sent.line)
    return 0


def _figures(rows: "pd.DataFrame", results: Path, folder: Path) -> dict[str, Path]:
    """The figures that a group's rows, read from ``results``, can be drawn as, each in a PNG file below ``folder``."""
    drawn = {}
    for kind, options, about in attempts(rows):
        name = "-".join([kind, *about.replace(",", "").split()])
        path = folder / f"{name}.png"
        arguments = parser().parse_args([kind, str(results), "-o", str(path), *options])
        try:
            path.write_bytes(render(make_figure(rows, arguments).figure, "png"))
        except InputError:  # runs that cannot stand in one figure, or nothing to draw
            continue
        drawn[name] = path
    return drawn


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="quantbench wandb-sync",
        description="Send the stored runs to Weights & Biases, each under its own id, and a run for each group that "
        "compares its runs. What is there already is not sent again.",
    )
    parser.add_argument("results", nargs="?", default="results", help="results folder (%(default)s)")
    parser.add_argument("--project", default="quantbench", help="project (%(default)s)")
    parser.add_argument("--entity", help="user or team (default: your own)")
    parser.add_argument("--group", help="group of all runs (default: each run's own, or the folder's name)")
    parser.add_argument("--tag", action="append", default=[], help="tag for all runs; may be repeated")
    parser.add_argument("--mode", choices=("auto", "online", "offline"), default="auto", help="auto: if logged in")
    parser.add_argument("--again", action="store_true", help="send everything again")
    return parser
