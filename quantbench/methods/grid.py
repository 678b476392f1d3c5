"""A grid: a number format together with the rule that fits its range to the weights."""

from dataclasses import dataclass

import torch
from torch import Tensor

from quantbench.formats import Format, GroupParams, IntFormat, QuantizedWeight, Settled
from quantbench.kernels import rtn
from quantbench.methods.curvature import Curvature
from quantbench.methods.range.base import Range
from quantbench.methods.range.minmax import MinMax


@dataclass
class Grid:
    """Fits the parameters of groups of weights and maps weights to codes and back."""

    format: Format
    range: Range

    @property
    def static(self) -> bool:
        """Whether all groups must be fitted before the first weight moves (parameters stored together)."""
        return self.format.fitted_ahead

    def fit(self, weight: Tensor, curvature: Curvature | None) -> GroupParams:
        """Parameters of one group: weight [rows, g], curvature of its g inputs -> [rows, 1] each."""
        return self.range.fit(weight, self.format, curvature)

    def fit_groups(self, weight: Tensor, curvature: Curvature | None) -> Settled:
        """Parameters of every group of a matrix [rows, in] -> [rows, groups] each, as they can be stored."""
        if self.format.per_tensor:
            whole = self.range.fit(weight.reshape(1, -1), self.format, None)
            return self.format.settle(whole.map(lambda t: t.expand(len(weight), *t.shape[1:])))
        weighted = self.range.needs_calibration or self.range.needs_fisher
        groups = self.format.group_slices(weight.shape[1])
        even = len(groups) - (groups[-1] != slice(groups[-1].start, groups[-1].start + (groups[0].stop)))
        if weighted and curvature is not None:
            fitted = [self.fit(weight[:, g], curvature.columns(g)) for g in groups]
        else:
            fitted = [self._fit_equal(weight[:, : groups[even - 1].stop], even)] if even else []
            fitted += [self.fit(weight[:, g], None) for g in groups[even:]]
        return self.format.settle(GroupParams.concatenated(fitted))

    def _fit_equal(self, weight: Tensor, groups: int) -> GroupParams:
        """All groups of equal size at once: rows are independent, so each group is one more row."""
        rows = len(weight)
        fitted = self.fit(weight.reshape(rows * groups, -1), None)
        return fitted.map(lambda t: t.reshape(rows, groups, *t.shape[2:]))

    def nearest(self, weight: Tensor, curvature: Curvature | None) -> QuantizedWeight:
        """Round-to-nearest of a matrix [rows, in]."""
        if isinstance(self.format, IntFormat) and self.range == MinMax() and not self.format.per_tensor:
            return QuantizedWeight(self.format, *rtn.quantize(weight, self.format))
        return self.encode(weight, self.fit_groups(weight, curvature))

    def encode(self, weight: Tensor, settled: Settled) -> QuantizedWeight:
        """The nearest codes of a matrix [rows, in] under given parameters."""
        columns = weight.shape[1]
        groups = torch.arange(columns, device=weight.device) // (self.format.group_size or columns)
        codes = settled.params.by_column(self.format.encode, weight, groups)
        return QuantizedWeight(self.format, codes.to(torch.uint8), settled.params, settled.levels)
