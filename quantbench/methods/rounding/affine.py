"""Learned changes of basis that are Kronecker products."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Generator, Tensor

from quantbench.methods.rounding.tuner import ParameterGroup, TunableTransform
from quantbench.methods.transform.rotation import RandomRotation


def changed(x: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """x [..., n] times P = diag(scale) (left kron right): left [a, a], right [b, b], n = a b, in the dtype of x."""
    left, right = tensors["left"].to(x), tensors["right"].to(x)
    table = (x * tensors["scale"].to(x)).unflatten(-1, (len(left), len(right)))
    return (left.T @ table @ right).flatten(-2)


class KroneckerAffine(TunableTransform):
    """FlatQuant's (Sun et al., arXiv 2410.09426, section 3.1): two small invertible matrices and a scale per channel.

    They start as random orthogonal matrices, and the scale as 1 / s for SmoothQuant's s at ``alpha``.
    """

    def __init__(
        self, weights: Sequence[Tensor], absmax: Tensor, *, alpha: float, lr: float, generator: Generator
    ) -> None:
        """weights: the linears that read the site [out_i, in]; absmax [in]: of what they read."""
        size, device = len(absmax), absmax.device
        rows = max(d for d in range(1, math.isqrt(size) + 1) if size % d == 0)
        least = 1e-5
        largest = torch.stack([w.abs().amax(0) for w in weights]).amax(0).clamp(min=least)
        smooth = absmax.clamp(min=least).pow(alpha) / largest.pow(1 - alpha)
        self.lr, self.log_scale = lr, (smooth.log().mean() - smooth.log()).requires_grad_()
        matrices = (RandomRotation().orthogonal(n, generator).float().to(device) for n in (rows, size // rows))
        self.left, self.right = (matrix.requires_grad_() for matrix in matrices)

    def groups(self) -> list[ParameterGroup]:
        return [{"params": [self.left, self.right, self.log_scale], "lr": self.lr}]

    def tensors(self) -> dict[str, Tensor]:
        return {"left": self.left, "right": self.right, "scale": self.log_scale.exp()}

    def folded(self, weight: Tensor) -> Tensor:
        left, right = (torch.linalg.inv(matrix) for matrix in (self.left, self.right))
        table = (weight * (-self.log_scale).exp()).unflatten(-1, (len(left), len(right)))
        return (left @ table @ right.T).flatten(-2)
