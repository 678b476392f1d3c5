"""Percentile range: the tails are clipped."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from quantbench.formats import Format, GroupParams
from quantbench.methods.curvature import Curvature
from quantbench.methods.histogram import Histogram
from quantbench.methods.range.base import CountedRange


@dataclass
class Percentile(CountedRange):
    """The interval that holds the central ``percent`` % of a group's weights (Wu et al., arXiv 2004.09602).

    The ends are the quantiles (1 - p) / 2 and (1 + p) / 2 with p = percent / 100, interpolated linearly between
    neighbours (numpy's default), and zero stays inside. A symmetric format covers the larger end. With n weights in a
    group less than one weight lies in a tail while n < 2 / (1 - p): 99.9 % hardly clips groups of 128, it is made for
    rows and whole tensors.
    """

    percent: float = 99.9

    def __post_init__(self) -> None:
        if not 50 < self.percent <= 100:
            raise ValueError(f"range.percent={self.percent}: allowed are values above 50 and up to 100")

    def fit(self, weight: Tensor, format: Format, curvature: Curvature | None) -> GroupParams:
        tail = (1 - self.percent / 100) / 2
        high = _upper_quantile(weight, tail).clamp_(min=0)
        low = -_upper_quantile(-weight, tail).clamp_(min=0)
        return format.params(low, high)

    def fit_counts(self, seen: Histogram, format: Format) -> GroupParams:
        low, high = seen.quantiles((1 - self.percent / 100) / 2)
        return format.params(torch.full((1, 1), min(low, 0.0)), torch.full((1, 1), max(high, 0.0)))


def _upper_quantile(weight: Tensor, tail: float) -> Tensor:
    """The value [rows, 1] that a fraction ``tail`` (below one half) of each row exceeds, from the largest few alone."""
    from_top = tail * (weight.shape[1] - 1)
    above = math.floor(from_top)
    largest = torch.topk(weight, min(above + 2, weight.shape[1]), dim=1).values
    upper, lower = largest[:, above, None], largest[:, -1:]
    return torch.lerp(upper, lower, from_top - above)
