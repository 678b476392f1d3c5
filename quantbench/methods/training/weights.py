"""How a quantized matrix takes part in training: with fixed codes, or rounded anew at every step."""

import torch
from torch import Tensor

from quantbench.formats import GroupParams, QuantizedWeight
from quantbench.methods.grid import Grid
from quantbench.methods.groups import grouped, ungrouped
from quantbench.methods.rounding.learned_step import own_params, straight_through_storage, with_params
from quantbench.methods.rounding.tuner import OwnWeight, ParameterGroup


class FixedCodes(OwnWeight):
    """Codes that stay, under step sizes that are trained: d value / d scale = code - zero_point.

    EfficientQAT's end-to-end phase (arXiv 2407.11062, section 3.3).
    """

    def __init__(self, start: QuantizedWeight, lr: float) -> None:
        self.start, self.lr = start, lr
        params = own_params(start)
        self.scale, self.zero_point = params.scale.clone().requires_grad_(), params.zero_point
        codes = start.codes.float()
        self.order = None if start.group_index is None else torch.argsort(start.group_index, stable=True)
        self.codes = grouped(codes if self.order is None else codes[:, self.order], start.format)

    def groups(self) -> list[ParameterGroup]:
        return [{"params": [self.scale], "lr": self.lr}]

    def value(self) -> Tensor:
        value = self.start.format.decode(self.codes, self._params().map(lambda t: t[..., None]))
        value = ungrouped(value, self.start.codes, self.start.format)
        value = value if self.order is None else value[:, torch.argsort(self.order)]
        return value if self.start.outliers is None else self.start.outliers.put(value)

    @torch.no_grad()
    def result(self) -> QuantizedWeight:
        return with_params(self.start, self._params())

    def _params(self) -> GroupParams:
        return straight_through_storage(GroupParams(self.scale, self.zero_point), self.start.format)


class Refitted(OwnWeight):
    """Latent weights whose range is fitted to them at every step; gradients pass as if nothing were rounded.

    BitNet's estimator (arXiv 2310.11453, section 2.3; 2402.17764): the identity, for clipped weights too, and no
    gradient through the scale.
    """

    def __init__(self, latent: Tensor, grid: Grid, lr: float) -> None:
        self.latent, self.grid, self.lr = latent.detach().float().clone().requires_grad_(), grid, lr

    def groups(self) -> list[ParameterGroup]:
        return [{"params": [self.latent], "lr": self.lr}]

    def value(self) -> Tensor:
        value = self.result().dequantize()
        return value + (self.latent - self.latent.detach())

    @torch.no_grad()
    def result(self) -> QuantizedWeight:
        return self.grid.nearest(self.latent.detach(), None)
