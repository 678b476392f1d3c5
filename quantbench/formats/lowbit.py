"""Ternary and binary weights, as in BitNet."""

from dataclasses import dataclass

import torch
from torch import Tensor

from quantbench.formats.base import GroupParams
from quantbench.formats.packing import pack_trits, trit_bytes, unpack_trits
from quantbench.formats.scaled import ScaledTable, require
from quantbench.formats.table import CodeTable
from quantbench.formats.tables import code_table


@dataclass
class Ternary(ScaledTable):
    """-1, 0 or 1 times a scale: RoundClip(W / scale, -1, 1) (BitNet b1.58, arXiv 2402.17764, eq. 1-3).

    The paper's scale is mean|W| of the matrix: ``range=absmean`` with ``per_tensor``. Five codes take a byte, 1.6 bits
    each; ``bits`` is what one takes alone, 2.
    """

    bits: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.bits, 2, "bits", "ternary stores 1.6 bits, 2 unpacked")

    def table(self, device: torch.device) -> CodeTable:
        return code_table("ternary", device)

    def code_bytes(self, columns: int) -> int:
        return trit_bytes(columns)

    def pack_codes(self, codes: Tensor) -> Tensor:
        return pack_trits(codes)

    def unpack_codes(self, packed: Tensor, columns: int) -> Tensor:
        return unpack_trits(packed, columns)


@dataclass
class Binary(ScaledTable):
    """-1 or 1 times a scale: the sign of the weight (BitNet, arXiv 2310.11453, eq. 1-3); zero counts as positive.

    The zero-point is what is subtracted from a weight before its sign is taken: zero, or the mean of the weights with
    ``range=absmean_centered``. As in the paper it is not added back, so it is not stored.
    """

    bits: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.bits, 1, "bits", "binary stores 1 bit")

    def table(self, device: torch.device) -> CodeTable:
        return code_table("binary", device)

    def encode(self, weight: Tensor, params: GroupParams) -> Tensor:
        return super().encode(weight - params.zero_point, params)
