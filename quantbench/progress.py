"""Progress of long stages: stage, item i of n, time left."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

_LOG_INTERVAL_SECONDS = 10.0


def track(
    iterable: Iterable[T], *, stage: str, unit: str = "it", total: int | None = None, leave: bool = True
) -> Iterator[T]:
    """Yield from ``iterable`` while showing stage, count and time left on stderr.

    A terminal gets a live bar; a log file gets at most one line every ten seconds, so that it stays readable. leave:
    whether the bar stays when all is done; a bar inside another does not, and a log file does not get it.
    """
    from tqdm import tqdm

    live = sys.stderr.isatty()
    yield from tqdm(
        iterable,
        desc=stage,
        unit=unit,
        total=total,
        file=sys.stderr,
        mininterval=0.2 if live else _LOG_INTERVAL_SECONDS,
        maxinterval=_LOG_INTERVAL_SECONDS,
        dynamic_ncols=live,
        leave=leave,
        disable=not (leave or live),
        ascii=not live,
    )
