"""Descent over orthogonal matrices."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


class CayleySGD(torch.optim.Optimizer):
    """SGD whose steps stay on the Stiefel manifold (Li et al., arXiv 2002.01113, without momentum).

    A step multiplies R by the Cayley transform of a skew-symmetric matrix along the gradient, (I + A)^-1 (I - A), which
    is orthogonal whatever its length. The authors approach it by a fixed-point iteration; here the system is solved, in
    float64, so that R does not drift.
    """

    def __init__(self, params: Iterable[Tensor], lr: float) -> None:
        """params: orthogonal matrices, which only have ever been rotated; lr: the longest step."""
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step for each matrix that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    matrix.copy_(_moved(matrix.double(), matrix.grad.double(), group["lr"]))


def _moved(r: Tensor, gradient: Tensor, lr: float) -> Tensor:
    product = r.T @ gradient
    skew = (product - product.T) / 2
    length = float(torch.linalg.matrix_norm(skew, 1))
    if not 0 < length < float("inf"):
        return r
    half = min(lr, 1 / length) / 2 * skew  # the authors bound a step by 1 / |W|_1
    identity = torch.eye(len(r), dtype=r.dtype, device=r.device)
    return r @ torch.linalg.solve(identity + half, identity - half)
