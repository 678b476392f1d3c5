"""A histogram whose range grows by powers of two, so that parts of the data merge into exactly what all of it gives."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from quantbench.methods.stats import finite_tokens

HALF = 8192  # bins on either side of zero: at least 32 for each positive code of int8
_LEAST_EXPONENT = -100  # 2^-113 is the narrowest bin, still a normal fp32 number
_PIECE = 2**20  # values that are counted at a time


def _no_counts() -> Tensor:
    return torch.zeros(2 * HALF, dtype=torch.int64)


@dataclass
class Histogram:
    """Counts of values in 2 * HALF equal bins over [-2^exponent, 2^exponent), the smallest such range that holds all.

    A bin's width is a power of two and zero is an edge, so doubling the range joins neighbours and no value moves to
    another bin: what is counted does not depend on the order of the data nor on how it was cut. counts: int64, from the
    lowest bin on; low, high: the smallest and the largest value, zero included.
    """

    counts: Tensor = field(default_factory=_no_counts)
    exponent: int = _LEAST_EXPONENT
    low: float = 0.0
    high: float = 0.0

    @property
    def width(self) -> float:
        """Of a bin."""
        return 2.0**self.exponent / HALF

    @property
    def total(self) -> int:
        """How many values were counted."""
        return int(self.counts.sum())

    def add(self, inputs: Tensor) -> None:
        """Count the values of ``inputs`` [..., in]; tokens with NaN or Inf are left out."""
        x = finite_tokens(inputs)
        if not x.numel():
            return
        low, high = (float(end) for end in x.aminmax())
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._widen(_exponent(max(-low, high)))
        for piece in x.flatten().split(_PIECE):
            index = (piece / self.width).floor_().long().add_(HALF)
            self.counts += torch.bincount(index, minlength=2 * HALF).cpu()

    def _widen(self, exponent: int) -> None:
        """Join neighbouring bins until the range is at least [-2^exponent, 2^exponent)."""
        while self.exponent < exponent:
            middle = self.counts.view(HALF, 2).sum(1)
            self.counts = torch.nn.functional.pad(middle, (HALF // 2, HALF // 2))
            self.exponent += 1

    @classmethod
    def merged(cls, parts: "Sequence[Histogram]") -> "Histogram":
        """That of all parts' values together."""
        whole = cls()
        for part in parts:
            other = cls(part.counts.clone(), part.exponent)
            exponent = max(whole.exponent, part.exponent)
            for one in (whole, other):
                one._widen(exponent)
            whole.counts += other.counts
            whole.low, whole.high = min(whole.low, part.low), max(whole.high, part.high)
        return whole

    def quantiles(self, tail: float) -> tuple[float, float]:
        """The values that a fraction ``tail`` of all lies below and above, to a bin's width, inside [low, high]."""
        ends = []
        for counts, sign in ((self.counts, -1), (self.counts.flip(0), 1)):
            outside = int((counts.cumsum(0) <= tail * self.total).sum())
            ends.append(sign * (HALF - outside) * self.width)
        return max(ends[0], self.low), min(ends[1], self.high)

    def bins(self, limit: int = 2 * HALF) -> tuple[Tensor, Tensor]:
        """Counts (fp64) and centres (fp32) of bins, joined until at most ``limit`` span the range; no empty ends."""
        joined = 1 << max(0, -(-2 * HALF // limit) - 1).bit_length()
        counts = self.counts.view(-1, joined).sum(1)
        centres = (torch.arange(len(counts)) + 0.5) * (joined * self.width) - 2.0**self.exponent
        first, last = ((counts > 0).nonzero()[[0, -1], 0]).tolist() if self.total else (0, len(counts) - 1)
        return counts[first : last + 1].double(), centres[first : last + 1].float()


def _exponent(bound: float) -> int:
    """The smallest e, from the least on, with bound < 2^e."""
    return max(int(torch.frexp(torch.tensor(bound)).exponent), _LEAST_EXPONENT)
