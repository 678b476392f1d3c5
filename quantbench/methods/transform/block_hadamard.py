"""Block-wise Hadamard rotations of what each linear reads."""

from dataclasses import dataclass

import torch

from quantbench.methods.transform.base import ModelTransform
from quantbench.methods.transform.hadamard_matrix import hadamard_factors
from quantbench.methods.transform.rotation import ChannelRotation, hadamard_rotation


@dataclass
class BlockHadamard(ModelTransform):
    """The inputs of every linear are multiplied with a block-diagonal H / sqrt(n) while the model runs, its weight too.

    MR-GPTQ (Egiazarian et al., arXiv 2509.23202, section 4): rotations as small as the blocks that share a scale make
    these nearly Gaussian, where one over all channels would give every block the outliers of the others.

    block_size: channels of a block, the authors' 16 to 128 (an order of a known Hadamard matrix). Inputs whose number
    of channels it does not divide are rotated in blocks of their largest divisor below it that is such an order.
    """

    block_size: int = 128

    def __post_init__(self) -> None:
        if self.block_size < 2 or hadamard_factors(self.block_size) is None:
            raise ValueError(f"transform.block_size={self.block_size}: allowed are orders of a known Hadamard matrix")

    @property
    def runs_online(self) -> bool:
        return True

    def block(self, size: int) -> int:
        """How many of ``size`` channels are rotated together."""
        orders = range(1, min(size, self.block_size) + 1)
        return max(order for order in orders if size % order == 0 and hadamard_factors(order) is not None)

    def rotation(self, size: int, device: torch.device | str) -> ChannelRotation:
        """The change of basis of ``size`` channels."""
        return hadamard_rotation(size, self.block(size), device)
