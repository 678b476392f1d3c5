"""The contract of the allocation axis."""

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from quantbench.formats import Format
from quantbench.methods.component import Component
from quantbench.methods.grid import Grid
from quantbench.methods.patterns import matches
from quantbench.methods.stats import SiteStats


class Kept(NamedTuple):
    """The weights of a matrix [out, in] that stay in 16 bits, bool [out, in] or None for none; notes for the record."""

    mask: Tensor | None = None
    notes: tuple[str, ...] = ()


@dataclass
class Allocation(Component):
    """Where the bits go.

    skip: patterns (shell wildcards) of linears to leave in full precision, matched against the dotted name and its last
    part, e.g. ``["*.0.*", "down_proj"]``.
    """

    skip: list[str] = field(default_factory=list)

    def quantizes(self, name: str) -> bool:
        """Whether the linear of this dotted name is quantized."""
        return not matches(self.skip, name)

    def format_of(self, name: str, format: Format) -> Format:
        """The format of the linear of this dotted name, given the run's."""
        return format

    def formats(self, format: Format) -> list[Format]:
        """Every format that :meth:`format_of` can return, given the run's."""
        return [format]

    @property
    def keeps_weights(self) -> bool:
        """Whether weights of a quantized matrix can stay in 16 bits: whether :meth:`keep` does anything."""
        return type(self).keep is not Allocation.keep

    def keep(self, weight: Tensor, grid: Grid, stats: SiteStats | None) -> Kept:
        """Which weights of one matrix [out, in] stay in 16 bits; stats: the inputs of its site, None where unknown."""
        return Kept()
