"""The Walsh-Hadamard transform in torch."""

import torch
from torch import Tensor

_RADIX = 64  # channels that one matrix product mixes


def transform(x: Tensor, block: int) -> Tensor:
    """x [..., n] times H / sqrt(block) in every block: H is a Kronecker product, so a factor is applied at a time."""
    dtype = x.dtype if x.dtype == torch.float64 else torch.float32
    y, mixed = x.to(dtype).reshape(-1, block), 1
    while mixed < block:
        radix = min(_RADIX, block // mixed)
        # mix the last channels, then move them to the front: after all factors every channel is in its place again
        y = (y.view(-1, block // radix, radix) @ _sylvester(radix, y)).transpose(1, 2).reshape(-1, block)
        mixed *= radix
    return (y * block**-0.5).view(x.shape).to(x.dtype)


def _sylvester(order: int, like: Tensor) -> Tensor:
    matrix = like.new_ones(1, 1)
    while len(matrix) < order:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix
