"""The Walsh-Hadamard transform of the last dimension, in blocks whose size is a power of two."""

import torch
from torch import Tensor

from quantbench.kernels.dispatch import use_triton
from quantbench.kernels.hadamard import reference

MOST_IN_REGISTERS = 16384


def transform(x: Tensor, block: int) -> Tensor:
    """x [..., n] times H / sqrt(block) in every block of channels, H being Sylvester's matrix (symmetric, +-1).

    Computed in fp64 for fp64, otherwise in fp32, and rounded once. Differentiable where the reference computes it,
    which is where a gradient is wanted.

    Raises:
        ValueError: block is no power of two, or does not divide n.
    """
    if block < 1 or block & (block - 1) or x.shape[-1] % block:
        raise ValueError(f"block={block}: allowed are powers of two that divide {x.shape[-1]}")
    if use_triton(x) and not x.requires_grad and 1 < block <= MOST_IN_REGISTERS:
        from quantbench.kernels.hadamard import triton

        with torch.cuda.device_of(x):
            return triton.transform(x, block)
    return reference.transform(x, block)
