"""A weight whose range (and rounding) is learned; AutoRound and OmniQuant say how."""

from abc import abstractmethod

import torch
from torch import Tensor

from quantbench.formats import GroupParams, Outliers, QuantizedWeight
from quantbench.formats.outliers import stored_value
from quantbench.methods.grid import Grid
from quantbench.methods.groups import grouped, ungrouped
from quantbench.methods.range.base import weight_range
from quantbench.methods.rounding.base import without_kept
from quantbench.methods.rounding.straight_through import extremes, fake_quantize, shifted
from quantbench.methods.rounding.tuner import ParameterGroup, TunableWeight
from quantbench.methods.stats import SiteStats

_START = 4.0  # of the clipping factors' logits: sigmoid(4) = 0.982


class LearnedRange(TunableWeight):
    """Codes under the range [low * a, high * b] of each group, the factors a and b to be learned.

    [low, high] is what the range axis fitted to the first weights, as a multiple of their own range (1 for min-max).
    Groups lie along the last of three dimensions [rows, groups, g]; a ragged last group is padded with zeros, which are
    inside every range.
    """

    def __init__(self, weight: Tensor, grid: Grid, stats: SiteStats | None, keep: Tensor | None) -> None:
        self.format, self.keep = grid.format, keep
        curvature = stats.curvature if stats is not None and stats.count else None
        self._known: tuple[Tensor, Tensor, Tensor] | None = None
        low, high = self._weight_range(grouped(without_kept(weight, keep), self.format))
        self.multiple = self._multiples(low, high, grid.fit_groups(without_kept(weight, keep), curvature).params)
        self.group_shape = low.shape

    @abstractmethod
    def factors(self) -> tuple[Tensor, Tensor]:
        """a and b, [rows, groups] each."""

    def offset(self) -> Tensor | None:
        """What is added to the weights before rounding, in steps [rows, groups, g]; None for nothing."""
        return None

    def fake_quantized(self, weight: Tensor) -> Tensor:
        groups, low, high = self._range(weight)
        value = ungrouped(fake_quantize(groups, self.offset(), low, high, self.format), weight, self.format)
        return value if self.keep is None else torch.where(self.keep, stored_value(weight), value)

    @torch.no_grad()
    def quantized(self, weight: Tensor) -> QuantizedWeight:
        groups, low, high = self._range(weight)
        settled = self.format.settle(self.format.params(low, high))
        params = settled.params.map(lambda t: t[..., None])
        codes = self.format.encode(shifted(groups, self.offset(), params, self.format), params)
        if self.format.per_tensor:  # one group: every row gets its parameters
            settled = self.format.settle(settled.params.map(lambda t: t.expand(len(weight), 1)))
        outliers = None if self.keep is None else Outliers.of(weight, self.keep)
        codes = ungrouped(codes, weight, self.format).to(torch.uint8).contiguous()
        return QuantizedWeight(self.format, codes, settled.params, settled.levels, outliers=outliers)

    def _range(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Groups [rows, groups, g] and their learned range [rows, groups]; the same tensor is looked at once."""
        if self._known is None or self._known[0] is not weight:
            self._known = (weight, *self._weight_range(grouped(without_kept(weight, self.keep), self.format)))
        _, low, high = self._known
        a, b = self.factors()
        return grouped(weight, self.format), low * (self.multiple[0] * a), high * (self.multiple[1] * b)

    def _multiples(self, low: Tensor, high: Tensor, fitted: GroupParams) -> tuple[Tensor, Tensor]:
        """Factors of the weights' range that give the fitted parameters back; exactly 1 where they are min-max."""
        own = self.format.settle(self.format.params(low, high)).params
        fitted = fitted.map(lambda t: t[: len(low)])  # one row where the whole matrix is one group
        same = (own.scale == fitted.scale) & (own.zero_point == fitted.zero_point)
        if self.format.stored_zero_point:
            bottom, top = extremes(self.format, fitted)
            tiny = torch.finfo(low.dtype).tiny
            ratios = bottom / low.clamp(max=-tiny), top / high.clamp(min=tiny)
        else:
            ratio = fitted.scale / own.scale
            # scales are rounded to be stored: a second step where the first fell on a neighbour
            ratio = (
                ratio * fitted.scale / self.format.settle(self.format.params(low * ratio, high * ratio)).params.scale
            )
            ratios = (ratio, ratio)
        return torch.where(same, 1.0, ratios[0]), torch.where(same, 1.0, ratios[1])

    def _weight_range(self, groups: Tensor) -> tuple[Tensor, Tensor]:
        low, high = weight_range(groups.reshape(-1, groups.shape[-1]))
        return low.view(groups.shape[:2]), high.view(groups.shape[:2])


class LearnedClipping(LearnedRange):
    """Both ends of each group's range times a sigmoid of a learned logit (OmniQuant, arXiv 2308.13137, eq. 2)."""

    def __init__(self, weight: Tensor, grid: Grid, stats: SiteStats | None, keep: Tensor | None, *, lr: float) -> None:
        super().__init__(weight, grid, stats, keep)
        self.lr = lr
        self.logits = [torch.full(self.group_shape, _START, device=weight.device).requires_grad_() for _ in range(2)]

    def groups(self) -> list[ParameterGroup]:
        return [{"params": self.logits, "lr": self.lr}]

    def factors(self) -> tuple[Tensor, Tensor]:
        low, high = self.logits
        return low.sigmoid(), high.sigmoid()
