"""The twelve types of ggml that llama.cpp stores weights in, by their names there."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from quantbench.formats.gguf.base import GGUFFormat, SuperBlock
from quantbench.formats.gguf.layout import NibblePairs, Plane, SignedBytes, SignedSixBits, SixBitPairs, Trits


@dataclass
class Q4_0(GGUFFormat):
    """32 codes around 8 and a float16 scale: 4.5 bits a weight."""

    bits: int = 4
    group_size: int | None = 32
    block: ClassVar[int] = 32
    offset = 8
    layout = (Plane(0, 4, 16),)
    order = ("d", "codes")


@dataclass
class Q4_1(GGUFFormat):
    """32 codes, a float16 scale and a float16 minimum: 5 bits a weight."""

    bits: int = 4
    group_size: int | None = 32
    block: ClassVar[int] = 32
    offset = None
    layout = (Plane(0, 4, 16),)
    order = ("d", "m", "codes")


@dataclass
class Q5_0(GGUFFormat):
    """32 codes around 16 and a float16 scale: 5.5 bits a weight."""

    bits: int = 5
    group_size: int | None = 32
    block: ClassVar[int] = 32
    offset = 16
    layout = (Plane(4, 1, 1), Plane(0, 4, 16))
    order = ("d", "codes")


@dataclass
class Q5_1(GGUFFormat):
    """32 codes, a float16 scale and a float16 minimum: 6 bits a weight."""

    bits: int = 5
    group_size: int | None = 32
    block: ClassVar[int] = 32
    offset = None
    layout = (Plane(4, 1, 1), Plane(0, 4, 16))
    order = ("d", "m", "codes")


@dataclass
class Q8_0(GGUFFormat):
    """32 codes from -127 to 127 and a float16 scale: 8.5 bits a weight."""

    bits: int = 8
    group_size: int | None = 32
    block: ClassVar[int] = 32
    offset = 128
    layout = (Plane(0, 8, 32),)
    order = ("d", "codes")

    @property
    def code_range(self) -> tuple[int, int]:
        return 1, 255

    def pack_codes(self, codes: Tensor) -> Tensor:
        return super().pack_codes(codes ^ 0x80)  # ggml stores two's complement

    def unpack_codes(self, packed: Tensor, columns: int) -> Tensor:
        return super().unpack_codes(packed, columns) ^ 0x80


@dataclass
class Q2_K(SuperBlock):
    """16 groups of 16 codes with 4-bit scales and minima: 2.625 bits a weight."""

    bits: int = 2
    group_size: int | None = 16
    offset = None
    layout = (Plane(0, 2, 32),)
    order = ("scales", "codes", "d", "dmin")
    scale_codes = (0, 15)
    scale_layout = NibblePairs()
    fallback = Q4_0


@dataclass
class Q3_K(SuperBlock):
    """16 groups of 16 codes around 4 with signed 6-bit scales: 3.4375 bits a weight."""

    bits: int = 3
    group_size: int | None = 16
    offset = 4
    layout = (Plane(2, 1, 32), Plane(0, 2, 32))
    order = ("codes", "scales", "d")
    scale_codes = (-32, 31)
    scale_layout = SignedSixBits()
    fallback = Q4_0


@dataclass
class Q4_K(SuperBlock):
    """8 groups of 32 codes with 6-bit scales and minima: 4.5 bits a weight."""

    bits: int = 4
    group_size: int | None = 32
    offset = None
    layout = (Plane(0, 4, 32),)
    order = ("d", "dmin", "scales", "codes")
    scale_codes = (0, 63)
    scale_layout = SixBitPairs()
    fallback = Q5_0


@dataclass
class Q5_K(SuperBlock):
    """8 groups of 32 codes with 6-bit scales and minima: 5.5 bits a weight."""

    bits: int = 5
    group_size: int | None = 32
    offset = None
    layout = (Plane(4, 1, 32), Plane(0, 4, 32))
    order = ("d", "dmin", "scales", "codes")
    scale_codes = (0, 63)
    scale_layout = SixBitPairs()
    fallback = Q5_1


@dataclass
class Q6_K(SuperBlock):
    """16 groups of 16 codes around 32 with signed 8-bit scales: 6.5625 bits a weight."""

    bits: int = 6
    group_size: int | None = 16
    offset = 32
    layout = (Plane(0, 4, 64), Plane(4, 2, 32))
    order = ("codes", "scales", "d")
    scale_codes = (-128, 127)
    scale_layout = SignedBytes()
    fallback = Q8_0


@dataclass
class TQ2_0(GGUFFormat):
    """256 ternary codes, two bits each, and a float16 scale: 2.0625 bits a weight."""

    bits: int = 2
    group_size: int | None = 256
    block: ClassVar[int] = 256
    offset = 1
    layout: ClassVar[tuple[Plane | Trits, ...]] = (Plane(0, 2, 32),)
    order = ("codes", "d")
    fallback = Q4_0

    @property
    def code_range(self) -> tuple[int, int]:
        return 0, 2


@dataclass
class TQ1_0(TQ2_0):
    """256 ternary codes, five to a byte, and a float16 scale: 1.6875 bits a weight."""

    layout: ClassVar[tuple[Plane | Trits, ...]] = (Trits(((32, 5), (16, 5), (4, 4))),)
