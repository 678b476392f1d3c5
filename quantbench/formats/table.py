"""A fixed table of values: the nearest one to a number, and the value of a code."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class CodeTable:
    """The values that the codes of a format can mean, before scaling.

    values: fp32 [2^bits], by code (NaN and infinities are codes that are never chosen); order: the usable codes in
    ascending order of their values, as floating point integers; borders: fp32 [len(order) - 1], the largest number that
    still belongs to each code of ``order`` but the last; top: the largest magnitude.
    """

    values: Tensor
    order: Tensor
    borders: Tensor
    top: float

    @classmethod
    def of(cls, values: Tensor, *, ties_to_even: bool) -> "CodeTable":
        """Order ``values`` [2^bits] and put a border halfway between neighbours.

        ties_to_even: a number on a border goes to the neighbour whose code is even (IEEE 754), otherwise to the lower
        value. Of the two zeros of a signed code, negative numbers get -0 and zero gets +0 with ties_to_even; otherwise
        the smaller code goes up to and including zero.
        """
        codes = torch.arange(len(values), device=values.device)[torch.isfinite(values)]
        if ties_to_even:
            codes = codes.flip(0)  # a stable sort then keeps -0, whose code is the larger, before +0
        order = codes[torch.sort(values[codes], stable=True).indices]
        ordered = values[order]
        borders = (ordered[:-1] + ordered[1:]) / 2
        if ties_to_even:
            below = torch.nextafter(borders, torch.full_like(borders, -torch.inf))
            borders = torch.where(order[1:] % 2 == 0, below, borders)
        return cls(values, order.float(), borders, float(ordered.abs().max()))

    def nearest(self, numbers: Tensor) -> Tensor:
        """Code of the value nearest to each number; what lies outside the table gets its end."""
        return self.order[torch.bucketize(numbers.contiguous(), self.borders)]

    def decode(self, codes: Tensor) -> Tensor:
        """Value of each code (given as any number type)."""
        return self.values[codes.long()]
