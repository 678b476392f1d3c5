"""The contract of the rounding axis."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from quantbench.formats import QuantizedWeight
from quantbench.methods.component import Component
from quantbench.methods.grid import Grid
from quantbench.methods.stats import SiteStats

NO_TOKENS = "no calibration token reached it"


class Rounded(NamedTuple):
    """A quantized matrix and what was out of the ordinary on the way (for the record)."""

    weight: QuantizedWeight
    notes: tuple[str, ...] = ()


@dataclass
class Rounding(Component, ABC):
    """Chooses codes. Rows are independent given the statistics, so matrices that share inputs may come stacked."""

    @property
    def quantizes(self) -> bool:
        """False for the choice that leaves the model in full precision."""
        return True

    @property
    def sequential(self) -> bool:
        """Whether later sites of a block must see the already quantized earlier ones (true-sequential)."""
        return False

    def index_bytes(self, grid: Grid, columns: int) -> int:
        """Bytes that it stores for a matrix of so many input channels beside what rounding to nearest stores."""
        return 0

    @abstractmethod
    def round(self, weight: Tensor, grid: Grid, stats: SiteStats | None, *, keep: Tensor | None = None) -> Rounded:
        """Quantize weight, fp32 [out, in], on ``grid``.

        stats: the inputs of its site, None when not collected; keep: bool [out, in], the weights that stay in 16 bits
        (they do not take part in fitting ranges), None for none.
        """


def without_kept(weight: Tensor, keep: Tensor | None) -> Tensor:
    """The weights that ranges are fitted to: those kept in 16 bits count as zero."""
    return weight if keep is None else weight.masked_fill(keep, 0)
