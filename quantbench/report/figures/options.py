"""Options that several kinds of figure share."""

import argparse
import math

from quantbench.report.options import conditions, fields
from quantbench.report.selection import Query


def add_metric(parser: argparse.ArgumentParser, default: str, *, name: str = "--metric") -> None:
    """``--metric`` and ``--task``."""
    parser.add_argument(name, default=default, metavar="NAME", help="metric of the y axis (%(default)s)")
    parser.add_argument("--task", metavar="NAME", help="corpus or task, where the metric has several")


def add_series(parser: argparse.ArgumentParser) -> None:
    """``--by``."""
    parser.add_argument("--by", default="method", metavar="FIELDS", help="fields that make a series (%(default)s)")


def add_scale(parser: argparse.ArgumentParser) -> None:
    """``--log`` and ``--linear``."""
    scale = parser.add_mutually_exclusive_group()
    scale.add_argument("--log", action="store_const", const=True, help="logarithmic y (default: where it spans a lot)")
    scale.add_argument("--linear", action="store_const", const=False, dest="log", help="linear y")


def add_limits(parser: argparse.ArgumentParser) -> None:
    """``--limits``."""
    parser.add_argument("--limits", type=_limits, metavar="LOW,HIGH", help="ends of the y axis (default: all runs)")


def _limits(given: str) -> tuple[float, float]:
    low, _, high = given.partition(",")
    try:
        ends = float(low), float(high)
    except ValueError:
        ends = math.nan, math.nan
    if not ends[0] < ends[1]:
        raise argparse.ArgumentTypeError(f"{given}: give two numbers, the lower first, as in 1,2.5")
    return ends


def query(arguments: argparse.Namespace, rows: str, cols: str, *, options: str = "--by") -> Query:
    """What the arguments select; rows and cols: fields joined by commas, options: those that show a field."""
    return Query(
        rows=fields(rows, options),
        cols=fields(cols, options) if cols else (),
        metrics=(arguments.metric,),
        task=arguments.task,
        where=conditions(arguments.where),
        options=f"{options}, or to --mix to allow it",
        mix=fields(arguments.mix, "--mix") if arguments.mix is not None else (),
    )
