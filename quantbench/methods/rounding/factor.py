"""Triangular factors of the damped Hessian and of its inverse."""

import torch
from torch import Tensor

_MAX_DAMP = 1.0


def inverse_factor(hessian: Tensor, damp_percent: float) -> tuple[Tensor, float]:
    """Upper triangular U [in, in] with (H + damp mean(diag H) I)^-1 = U^T U, and the damping that made it possible.

    U = R^-1 with R of :func:`upper_factor`: one Cholesky and one triangular inverse instead of the GPTQ paper's
    Cholesky, inverse, Cholesky.

    Raises:
        ValueError: H is not finite, or not positive definite even at damping 1.
    """
    upper, damp = upper_factor(hessian, damp_percent)
    identity = torch.eye(len(hessian), device=hessian.device, dtype=hessian.dtype)
    return torch.linalg.solve_triangular(upper, identity, upper=True), damp


def upper_factor(hessian: Tensor, damp_percent: float) -> tuple[Tensor, float]:
    """Upper triangular R [in, in] with H + damp mean(diag H) I = R R^T, and the damping that made it possible.

    With J the reversal of the coordinates and J H J = L L^T, R = J L J. If H is not positive definite the damping is
    multiplied by ten, up to 1.

    Raises:
        ValueError: H is not finite, or not positive definite even at damping 1.
    """
    if not bool(torch.isfinite(hessian).all()):
        raise ValueError("the Hessian holds NaN or Inf")
    mean = hessian.diagonal().mean()
    damp = damp_percent
    while True:
        damped = hessian.flip(0, 1)
        damped.diagonal().add_(damp * mean)
        lower, info = torch.linalg.cholesky_ex(damped)
        if not int(info):
            return lower.flip(0, 1), damp
        if damp >= _MAX_DAMP:
            raise ValueError(f"the Hessian is not positive definite even with damp_percent={damp:g}")
        damp = min(damp * 10, _MAX_DAMP)
