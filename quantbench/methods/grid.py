"""A grid: a number format together with the rule that fits its range to the weights."""

from dataclasses import dataclass

import torch
from torch import Tensor

from quantbench.formats import Format, GroupParams, QuantizedWeight
from quantbench.methods.range.base import Range


@dataclass
class Grid:
    """Fits scale and zero-point of groups of weights and maps weights to codes and back."""

    format: Format
    range: Range

    def fit(self, weight: Tensor, hessian: Tensor | None) -> GroupParams:
        """Parameters of one group: weight [rows, g], hessian [g, g] of its inputs -> scale, zero_point [rows, 1]."""
        return self.range.fit(weight, self.format, hessian)

    def fit_groups(self, weight: Tensor, hessian: Tensor | None) -> GroupParams:
        """Parameters of every group of a matrix [rows, in] -> scale, zero_point [rows, groups]."""
        groups = self.format.group_slices(weight.shape[1])
        fitted = [self.fit(weight[:, g], None if hessian is None else hessian[g, g]) for g in groups]
        return GroupParams(torch.cat([p.scale for p in fitted], 1), torch.cat([p.zero_point for p in fitted], 1))

    def nearest(self, weight: Tensor, hessian: Tensor | None) -> QuantizedWeight:
        """Round-to-nearest of a matrix [rows, in]."""
        params = self.fit_groups(weight, hessian)
        sizes = torch.tensor(
            [g.stop - g.start for g in self.format.group_slices(weight.shape[1])], device=weight.device
        )
        expanded = GroupParams(*(p.repeat_interleave(sizes, 1) for p in params))
        codes = self.format.encode(weight, expanded)
        return QuantizedWeight(self.format, codes.to(torch.uint8), params.scale, params.zero_point)
