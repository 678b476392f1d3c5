"""Rounding that lets gradients through: the differentiable fake quantization of block-level tuners."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from quantbench.formats import Format, GroupParams

_FAR = 1e6  # scales away from zero: beyond the last code of every format


def fake_quantize(weight: Tensor, offset: Tensor | None, low: Tensor, high: Tensor, format: Format) -> Tensor:
    """Quantized values of ``weight + offset * step`` whose gradient passes the rounding as if it were not there.

    weight, offset [rows, groups, g]; low, high [rows, groups], the range; result [rows, groups, g]. A step is the mean
    distance of neighbouring values (the scale, for integers). Weights inside the range get the gradient of the identity
    and pass d value / d scale = (value - weight) / scale; clipped ones follow the end of the range. This is what
    d/dx round(x) = 1 gives (AutoRound's and OmniQuant's estimator), written once for all formats.
    """
    soft = format.params(low, high)
    params = format.settle(soft.map(torch.detach)).params.map(lambda t: t[..., None])
    scale = params.scale + (soft.scale - soft.scale.detach())[..., None]
    bottom, top = extremes(format, params)
    if format.stored_zero_point:
        bottom, top = _following(bottom, low[..., None], scale), _following(top, high[..., None], scale)
    else:  # the range is a multiple of the scale
        bottom, top = bottom / params.scale * scale, top / params.scale * scale
    return _StraightThrough.apply(weight, offset, scale, bottom, top, params, format, 0.5)


def fake_quantize_with(weight: Tensor, params: GroupParams, format: Format, *, margin: float = 0.5) -> Tensor:
    """Quantized values of ``weight`` [rows, groups, g] under ``params`` [rows, groups], differentiable in both.

    Inside the range d value / d weight = 1 and d value / d scale = (value - weight) / scale; beyond it the value is
    that of the last code, which follows scale and zero-point: LSQ's gradient (arXiv 1902.08153, eq. 3 and 5) and, with
    a zero-point, LSQ+'s (arXiv 2004.09576). margin: steps beyond the last code's value up to which a weight is inside:
    0.5 clips after rounding, 0 before it, as LSQ's paper does.
    """
    live, fixed = params.map(lambda t: t[..., None]), params.map(lambda t: t.detach()[..., None])
    far = _FAR * fixed.scale.abs()
    bottom, top = (format.decode(format.encode(x, fixed), live) for x in (-far, far))
    return _StraightThrough.apply(weight, None, live.scale, bottom, top, fixed, format, margin)


def shifted(weight: Tensor, offset: Tensor | None, params: GroupParams, format: Format) -> Tensor:
    """``weight + offset * step``: what gets rounded; shapes as in :func:`fake_quantize`."""
    if offset is None:
        return weight
    bottom, top = extremes(format, params)
    return torch.addcmul(weight, offset, _step(bottom, top, format))


def extremes(format: Format, params: GroupParams) -> tuple[Tensor, Tensor]:
    """The smallest and the largest value that the codes can mean under ``params`` (of any shape)."""
    far = _FAR * params.scale.abs()  # some formats store signed scales
    return tuple(format.decode(format.encode(x, params), params) for x in (-far, far))  # type: ignore[return-value]


def _step(bottom: Tensor, top: Tensor, format: Format) -> Tensor:
    return (top - bottom) / (2**format.bits - 1)


def _following(value: Tensor, end: Tensor, scale: Tensor) -> Tensor:
    """An extreme value as a function of the range's end: what rounding the zero-point took away grows with the scale.

    scale (code - z) with z = round(-low / scale), d round(x) / dx = 1: d value = d end + (value - end) / scale d scale.
    """
    residual = ((value - end) / scale).detach()
    return value.detach() + (end - end.detach()) + residual * (scale - scale.detach())


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        offset: Tensor | None,
        scale: Tensor,
        bottom: Tensor,
        top: Tensor,
        params: GroupParams,
        format: Format,
        margin: float,
    ) -> Tensor:
        step = _step(bottom, top, format)
        target = weight if offset is None else torch.addcmul(weight, offset, step)
        value = format.decode(format.encode(target, params), params)
        # inside at half a step: the rounding error is at most that, or the value is not one of the ends
        below, above = target < bottom - step * margin, target > top + step * margin
        ctx.save_for_backward(weight, value, scale, step, below, above)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, value, scale, step, below, above = ctx.saved_tensors
        wants_weight, wants_offset, wants_scale, wants_bottom, wants_top = ctx.needs_input_grad[:5]
        inside = grad.masked_fill(below | above, 0)
        d_scale = d_bottom = d_top = None
        if wants_scale:
            d_scale = (inside * (value - weight)).sum(-1, keepdim=True) / scale
        if wants_bottom:
            d_bottom = (grad * below).sum(-1, keepdim=True)
        if wants_top:
            d_top = (grad * above).sum(-1, keepdim=True)
        d_offset = inside * step if wants_offset else None
        return inside if wants_weight else None, d_offset, d_scale, d_bottom, d_top, None, None, None
