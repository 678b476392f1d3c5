"""Multiplication with compressed rows in torch."""

import torch
from torch import Tensor

_PIECE = 64  # tokens at a time: each takes as many products as there are weights


def sparse_linear(x: Tensor, pointers: Tensor, columns: Tensor, values: Tensor) -> Tensor:
    """x [m, k] times S^T [k, n], fp32."""
    n = len(pointers) - 1
    rows = torch.arange(n, device=x.device).repeat_interleave(pointers.diff())
    result = torch.zeros(len(x), n, device=x.device)
    for piece, part in zip(x.split(_PIECE), result.split(_PIECE), strict=True):
        part.index_add_(1, rows, piece[:, columns].float() * values)
    return result
