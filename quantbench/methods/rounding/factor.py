"""The triangular factor of the inverse Hessian that GPTQ walks along."""

import torch
from torch import Tensor

_MAX_DAMP = 1.0


def inverse_factor(hessian: Tensor, damp_percent: float) -> tuple[Tensor, float]:
    """Upper triangular U [in, in] with (H + damp mean(diag H) I)^-1 = U^T U, and the damping that made it possible.

    With J the reversal of the coordinates and J H J = L L^T, H = (J L J)(J L J)^T and U = (J L J)^-1: one Cholesky
    and one triangular inverse instead of the paper's Cholesky, inverse, Cholesky. If H is not positive definite the
    damping is multiplied by ten, up to 1.

    Raises:
        ValueError: H is not finite, or not positive definite even at damping 1.
    """
    if not bool(torch.isfinite(hessian).all()):
        raise ValueError("the Hessian holds NaN or Inf")
    mean = hessian.diagonal().mean()
    reversed_hessian = hessian.flip(0, 1)
    identity = torch.eye(len(hessian), device=hessian.device, dtype=hessian.dtype)
    damp = damp_percent
    while True:
        lower, info = torch.linalg.cholesky_ex(reversed_hessian + damp * mean * identity)
        if not int(info):
            inverse = torch.linalg.solve_triangular(lower, identity, upper=False)
            return inverse.flip(0, 1), damp
        if damp >= _MAX_DAMP:
            raise ValueError(f"the Hessian is not positive definite even with damp_percent={damp:g}")
        damp = min(damp * 10, _MAX_DAMP)
