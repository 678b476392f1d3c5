"""Naming linears by shell wildcards."""

from collections.abc import Iterable
from fnmatch import fnmatch


def matches(patterns: Iterable[str], name: str, *also: str) -> bool:
    """Whether any pattern fits the dotted ``name`` of a linear, its last part, or one of ``also``."""
    called = (name, name.rsplit(".", 1)[-1], *also)
    return any(fnmatch(call, pattern) for pattern in patterns for call in called)
