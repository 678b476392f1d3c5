"""Allocation: where the bits go."""

from dataclasses import dataclass, field
from fnmatch import fnmatch


@dataclass
class Allocation:
    """The same format for every linear of the decoder blocks, but for those left in full precision.

    skip: patterns (shell wildcards) of linears to leave alone, matched against the dotted name and its last part,
    e.g. ``["*.0.*", "down_proj"]``.
    """

    skip: list[str] = field(default_factory=list)

    def quantizes(self, name: str) -> bool:
        """Whether the linear of this dotted name is quantized."""
        return not any(fnmatch(name, p) or fnmatch(name.rsplit(".", 1)[-1], p) for p in self.skip)


@dataclass
class Uniform(Allocation):
    """Every quantized linear gets the same bits."""
