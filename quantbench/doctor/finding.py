"""What a check found."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that is there or not: what it is, what was found, and how to get it if it is missing.

    required: without it the main job cannot run.
    """

    name: str
    there: bool
    detail: str
    remedy: str = ""
    required: bool = False


Check = Callable[[], Iterator[Finding]]
