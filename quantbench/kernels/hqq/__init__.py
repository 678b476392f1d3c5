"""HQQ's iterations over the zero-points of many groups."""

import torch
from torch import Tensor

from quantbench.kernels.dispatch import use_triton
from quantbench.kernels.hqq import reference
from quantbench.kernels.hqq.reference import shrunk

__all__ = ["moved_zero_point", "shrunk"]
MOST_IN_REGISTERS = 2048  # weights of a group


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
    """Zero-points [groups, 1] that make sum |w - q(w)|^lp_norm small: weight [groups, g], scale and start [groups, 1].

    In turns an error e is shrunk (|e| <- max(|e| - |e|^(lp_norm - 1) / beta, 0)) and the zero-point set to its mean;
    beta grows by kappa. A group is done when its zero-point moves by less than ``reference.SETTLED`` of a step.
    """
    options = {"max_code": max_code, "lp_norm": lp_norm, "beta": beta, "kappa": kappa, "iterations": iterations}
    if use_triton(weight) and weight.shape[1] <= MOST_IN_REGISTERS:
        from quantbench.kernels.hqq import triton

        with torch.cuda.device_of(weight):
            return triton.moved_zero_point(weight, scale, start, **options)  # type: ignore[arg-type]
    return reference.moved_zero_point(weight, scale, start, **options)  # type: ignore[arg-type]
