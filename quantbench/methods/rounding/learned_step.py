"""Weights, step sizes and zero-points that are trained together: QAT, LSQ and EfficientQAT's Block-AP."""

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from quantbench.formats import Format, GroupParams, QuantizedWeight
from quantbench.methods.groups import grouped, ungrouped
from quantbench.methods.rounding.straight_through import extremes, fake_quantize_with
from quantbench.methods.rounding.tuner import OwnWeight, ParameterGroup

_LEAST = 1e-2  # of the first step size: one that vanished or turned negative would not come back


class Rates(NamedTuple):
    """Learning rates of weights, step sizes and zero-points; None for what stays as it is."""

    weight: float | None
    scale: float | None
    zero_point: float | None


class LearnedStep(OwnWeight):
    """Latent weights [out, in] that are rounded to nearest under step sizes and zero-points of their own.

    What the forward pass multiplies with is always what would be stored: scales rounded to their dtype, zero-points to
    codes, the gradient passing both roundings. start: its format, parameters, order of columns and kept outliers (which
    stay) are where training begins.
    """

    def __init__(
        self,
        latent: Tensor,
        start: QuantizedWeight,
        rates: Rates,
        *,
        margin: float = 0.5,
        scaled_gradient: bool = False,
    ) -> None:
        """margin: see :func:`fake_quantize_with`; scaled_gradient: LSQ's factor on the gradient of step sizes."""
        self.start, self.format, self.margin = start, start.format, margin
        self.rates = rates if self.format.stored_zero_point else rates._replace(zero_point=None)
        index = start.group_index
        self.order = None if index is None else torch.argsort(index, stable=True)
        stored = own_params(start)
        self.latent = latent.detach().float().clone().requires_grad_(rates.weight is not None)
        self.scale = stored.scale.clone().requires_grad_(rates.scale is not None)
        self.zero_point = stored.zero_point.clone().requires_grad_(self.rates.zero_point is not None)
        self.least = _LEAST * stored.scale
        self.gradient_scale = lsq_gradient_scale(self._grouped(latent).shape[-1], start) if scaled_gradient else 1.0

    def groups(self) -> list[ParameterGroup]:
        tensors = zip((self.latent, self.scale, self.zero_point), self.rates, strict=True)
        return [{"params": [tensor], "lr": rate} for tensor, rate in tensors if rate is not None]

    @torch.no_grad()
    def project_(self) -> None:
        if self.rates.scale is not None:
            self.scale.copy_(torch.maximum(self.scale, self.least))

    def value(self) -> Tensor:
        value = fake_quantize_with(self._grouped(self.latent), self._params(), self.format, margin=self.margin)
        value = self._ungrouped(value)
        return value if self.start.outliers is None else self.start.outliers.put(value)

    @torch.no_grad()
    def result(self) -> QuantizedWeight:
        params = self._params()
        codes = self.format.encode(self._grouped(self.latent), params.map(lambda t: t[..., None]))
        codes = self._ungrouped(codes).to(torch.uint8).contiguous()
        return with_params(replace(self.start, codes=codes), params)

    def _params(self) -> GroupParams:
        """As they would be stored, differentiable."""
        if self.rates.scale is None and self.rates.zero_point is None:
            return GroupParams(self.scale, self.zero_point)
        scale = scaled_gradient(self.scale, self.gradient_scale)
        return straight_through_storage(GroupParams(scale, self.zero_point), self.format)

    def _grouped(self, weight: Tensor) -> Tensor:
        return grouped(weight if self.order is None else weight[:, self.order], self.format)

    def _ungrouped(self, groups: Tensor) -> Tensor:
        weight = ungrouped(groups, self.latent, self.format)
        return weight if self.order is None else weight[:, torch.argsort(self.order)]


def require_own_steps(setting: str, format: Format) -> None:
    """Refuse formats whose step sizes are not numbers of their own.

    Raises:
        ValueError: names the setting and what is allowed.
    """
    if format.joint and not format.per_tensor:
        raise ValueError(
            f"{setting} learns step sizes, which format={type(format).__name__.lower()} stores together with others: "
            "allowed are formats with one scale a group, row or tensor"
        )


def own_params(weight: QuantizedWeight) -> GroupParams:
    """Its parameters [rows, groups], once where one scale serves the whole matrix."""
    return weight.params.map(lambda t: t[:1]) if weight.format.per_tensor else weight.params


def with_params(weight: QuantizedWeight, params: GroupParams) -> QuantizedWeight:
    """The codes of ``weight`` under storable ``params``, shaped as :func:`own_params`."""
    if not weight.format.joint:
        return replace(weight, params=params.map(torch.detach))
    if not weight.format.per_tensor:  # second-level scales, which do not move
        return weight
    rows = weight.shape[0]
    settled = weight.format.settle(params.map(lambda t: t.detach().expand(rows, -1)))
    return replace(weight, params=settled.params, levels=settled.levels)


def straight_through_storage(params: GroupParams, format: Format) -> GroupParams:
    """Parameters rounded to what is stored, with the gradient of those that are not."""
    stored = format.storable(params.map(torch.detach))
    return GroupParams(
        stored.scale + (params.scale - params.scale.detach()),
        stored.zero_point + (params.zero_point - params.zero_point.detach()),
    )


def scaled_gradient(x: Tensor, factor: float) -> Tensor:
    """x, with its gradient multiplied by ``factor`` (LSQ, arXiv 1902.08153, appendix A)."""
    return x if factor == 1.0 else x.detach() + (x - x.detach()) * factor


def largest_code(weight: QuantizedWeight) -> float:
    """Q_P of LSQ: how many steps the largest value is away from zero; with a zero-point, the largest code."""
    if weight.format.stored_zero_point:
        return float(2**weight.format.bits - 1)
    _, top = extremes(weight.format, own_params(weight))
    return float((top / weight.scale[: len(top)]).max())


def lsq_gradient_scale(weights: int, start: QuantizedWeight) -> float:
    """g = 1 / sqrt(N Q_P) for a step size that ``weights`` weights share (LSQ, section 2.2)."""
    return 1 / math.sqrt(weights * largest_code(start))


def lsq_step_sizes(latent: Tensor, start: QuantizedWeight) -> QuantizedWeight:
    """``start`` with the step sizes 2 mean|w| / sqrt(Q_P) of each group (LSQ, section 2.1)."""
    order = slice(None) if start.group_index is None else torch.argsort(start.group_index, stable=True)
    mean = grouped(latent[:, order].abs(), start.format).sum(-1) / grouped(torch.ones_like(latent), start.format).sum(
        -1
    )
    scale = 2 * mean / math.sqrt(largest_code(start))
    return with_params(start, start.format.storable(GroupParams(scale, own_params(start).zero_point)))
