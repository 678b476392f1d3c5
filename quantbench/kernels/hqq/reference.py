"""HQQ's iterations in torch."""

import torch
from torch import Tensor

_CHUNK = 2**17  # half a megabyte of fp32: temporaries stay in the cache
SETTLED = 1e-3  # of a step; float16 resolves a zero-point between 2 and 4 to 2e-3


def moved_zero_point(
    weight: Tensor,
    scale: Tensor,
    start: Tensor,
    *,
    max_code: int,
    lp_norm: float,
    beta: float,
    kappa: float,
    iterations: int,
) -> Tensor:
    """Zero-points [groups, 1], of a few groups at a time."""
    size = max(1, _CHUNK // max(1, weight.shape[1]))
    chunks = zip(weight.split(size), scale.split(size), start.split(size), strict=True)
    return torch.cat([_moved(*chunk, max_code, lp_norm, beta, kappa, iterations) for chunk in chunks])


def _moved(
    weight: Tensor,
    scale: Tensor,
    start: Tensor,
    max_code: int,
    lp_norm: float,
    beta: float,
    kappa: float,
    iterations: int,
) -> Tensor:
    """Everything in units of a step: w / s + z is a real code, its distance to the nearest code the error."""
    result, zero_point = start.clone(), start
    steps, moving = weight / scale, torch.arange(len(weight), device=weight.device)
    buffers = torch.empty_like(steps), torch.empty_like(steps)
    for _ in range(iterations):
        real, code = (buffer[: len(moving)] for buffer in buffers)
        torch.add(steps, zero_point, out=real)
        error = real.sub_(torch.round(real, out=code).clamp_(0, max_code))
        subtract_shrunk(error, scale, lp_norm, beta)
        # mean over the group of q - (w - e) / s, where w / s = q - z + error
        shift = error.mean(1, keepdim=True)
        zero_point = zero_point - shift
        result[moving] = zero_point
        still = (shift[:, 0].abs() > SETTLED).nonzero()[:, 0]
        if not len(still):
            break
        if len(still) < len(moving):
            moving, steps, scale, zero_point = (t[still] for t in (moving, steps, scale, zero_point))
        beta *= kappa
    return result


def shrunk(residual: Tensor, lp_norm: float, beta: float) -> Tensor:
    """Generalised soft threshold: sign(x) max(|x| - |x|^(p - 1) / beta, 0)."""
    magnitude = residual.abs()
    return residual.sign() * (magnitude - magnitude.pow(lp_norm - 1) / beta).clamp_(min=0)


def subtract_shrunk(error: Tensor, scale: Tensor, lp_norm: float, beta: float) -> None:
    """Take e from ``error`` (in steps, in place); few residuals are large enough for e to differ from zero."""
    threshold = beta ** (-1 / (2 - lp_norm))  # |x| = |x|^(p - 1) / beta
    low, high = torch.aminmax(error)
    if float(torch.maximum(-low, high) * scale.max()) <= threshold:
        return
    residual = error * scale
    row, column = (residual.abs() > threshold).nonzero(as_tuple=True)
    error[row, column] -= shrunk(residual[row, column], lp_norm, beta) / scale[row, 0]
