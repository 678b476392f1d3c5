"""Rotations of the residual stream and of the heads, whose weights then have no outlier channels."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from quantbench.kernels.hadamard import transform
from quantbench.methods.transform.base import ModelTransform
from quantbench.methods.transform.hadamard_matrix import hadamard_factors, hadamard_matrix

_SMALL_CORE = 64  # a product with a smaller matrix takes longer than with one that has a factor 2 more


@dataclass(frozen=True)
class ChannelRotation:
    """Channels h become h Q for an orthogonal Q [size, size].

    Q is ``dense``, or in each block of so many channels diag(signs) (H kron core): H is Sylvester's matrix, whose
    product is a fast transform, and core [m, m] what the block's order has beside a power of two, both orthogonal.
    None stands for ones. stride: only channels so far apart are mixed, such as those of equal place in every head, by
    a Q [size / stride, size / stride].
    """

    size: int
    dense: Tensor | None = None
    signs: Tensor | None = None
    core: Tensor | None = None
    block: int = 1
    stride: int = 1

    def __call__(self, x: Tensor, *, back: bool = False) -> Tensor:
        """x [..., size] times Q, or ``back`` times its inverse, in the dtype of x."""
        if self.stride > 1:
            apart = x.unflatten(-1, (-1, self.stride)).transpose(-1, -2)
            return self._rotated(apart, back).transpose(-1, -2).flatten(-2)
        return self._rotated(x, back)

    def _rotated(self, x: Tensor, back: bool) -> Tensor:
        if self.dense is not None:
            dense = self.dense.to(x)
            return x @ (dense.T if back else dense)
        signs = 1 if self.signs is None else self.signs.to(x)
        return self._mixed(x, back) * signs if back else self._mixed(x * signs, back)

    def _mixed(self, x: Tensor, back: bool) -> Tensor:
        if self.core is None:
            return transform(x, self.block)  # symmetric: its own inverse
        order, core = len(self.core), self.core.to(x)
        mixed = x.unflatten(-1, (-1, order)) @ (core.T if back else core)
        mixed = mixed.unflatten(-2, (-1, self.block // order)).transpose(-1, -2)
        return transform(mixed, self.block // order).transpose(-1, -2).reshape(x.shape)


@dataclass
class Rotation(ModelTransform, ABC):
    """An orthogonal change of basis, folded into the weights of the whole model before its blocks are quantized.

    block_size: channels are rotated in blocks of so many; null: all in one block, or in the largest that can be built.
    heads: rotate the values within each head too, undone in the output projection. seed: of the random signs or
    matrices. online: also rotate, while the model runs, what no weight before it can: the inputs of each MLP's last
    linear, and those of the attention's, across its heads (QuaRot, arXiv 2404.00456, stages 1b and 1c).
    """

    block_size: int | None = None
    heads: bool = True
    seed: int = 0
    online: bool = False

    def __post_init__(self) -> None:
        if self.block_size is not None and self.block_size < 2:
            raise ValueError(f"transform.block_size={self.block_size}: allowed is an integer from 2 or null")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"transform.seed={self.seed}: allowed are 0 to 2^32 - 1")

    @property
    def runs_online(self) -> bool:
        return self.online

    def block(self, size: int) -> int:
        """How many of ``size`` channels are rotated together.

        Raises:
            ValueError: block_size does not divide ``size``.
        """
        if self.block_size is None:
            return self.largest_block(size)
        if size % self.block_size:
            raise ValueError(f"transform.block_size={self.block_size}: allowed are divisors of {size}, or null")
        return self.block_size

    def rotation(self, size: int, block: int, generator: Generator, device: torch.device | str) -> ChannelRotation:
        """The change of basis of ``size`` channels in blocks."""
        return ChannelRotation(size, dense=self.matrix(size, block, generator).to(device))

    def online_rotation(self, size: int, generator: Generator, device: torch.device | str) -> ChannelRotation:
        """The change of basis of ``size`` channels that is computed while the model runs."""
        return self.rotation(size, self.block(size), generator, device)

    def matrix(self, size: int, block: int, generator: Generator) -> Tensor:
        """Block-diagonal orthogonal matrix Q [size, size], float64; channels h become h Q."""
        return torch.block_diag(*(self.orthogonal(block, generator) for _ in range(size // block)))

    def largest_block(self, size: int) -> int:
        """The largest divisor of ``size`` for which there is a matrix."""
        return size

    @abstractmethod
    def orthogonal(self, size: int, generator: Generator) -> Tensor:
        """A dense orthogonal matrix [size, size], float64."""


@dataclass
class Hadamard(Rotation):
    """Q = diag(random signs) H / sqrt(n): every weight becomes a signed mean of all (QuIP#, arXiv 2402.04396, sec. 3).

    random_signs: false leaves the signs out. Where a dimension is no known order of a Hadamard matrix, it is rotated in
    blocks of the largest divisor that is one.
    """

    random_signs: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block_size is not None and hadamard_factors(self.block_size) is None:
            raise ValueError(f"transform.block_size={self.block_size}: allowed are orders of a known Hadamard matrix")

    def largest_block(self, size: int) -> int:
        return max(d for d in range(1, size + 1) if size % d == 0 and hadamard_factors(d) is not None)

    def rotation(self, size: int, block: int, generator: Generator, device: torch.device | str) -> ChannelRotation:
        signs = torch.cat([self._signs(block, generator) for _ in range(size // block)])
        return replace(hadamard_rotation(size, block, device), signs=signs.to(device))

    def online_rotation(self, size: int, generator: Generator, device: torch.device | str) -> ChannelRotation:
        return hadamard_rotation(size, self.block(size), device)  # as the authors have it, without signs

    def orthogonal(self, size: int, generator: Generator) -> Tensor:
        return self._signs(size, generator)[:, None] * hadamard_matrix(size) / size**0.5

    def _signs(self, size: int, generator: Generator) -> Tensor:
        if not self.random_signs:
            return torch.ones(size, dtype=torch.float64)
        return (2 * torch.randint(0, 2, (size,), generator=generator) - 1).double()


def hadamard_rotation(size: int, block: int, device: torch.device | str) -> ChannelRotation:
    """H / sqrt(block) in every block; the factors that are no power of two come last in H, in one core."""
    order = math.prod(factor for factor in hadamard_factors(block) or () if factor > 2)
    while 1 < order < _SMALL_CORE and block % (2 * order) == 0:
        order *= 2
    core = None if order == 1 else (hadamard_matrix(order) / order**0.5).to(device)
    return ChannelRotation(size, core=core, block=block)


@dataclass
class RandomRotation(Rotation):
    """A random orthogonal matrix, uniform over all (the Q of a Gaussian's QR; QuIP, arXiv 2307.13304)."""

    def orthogonal(self, size: int, generator: Generator) -> Tensor:
        q, r = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
        return q * r.diagonal().sign()  # a positive diagonal of R makes it uniform (Mezzadri, math-ph/0609050)
