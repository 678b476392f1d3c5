"""Where ggml puts the bits of codes and of second-level scales inside a block."""

from typing import NamedTuple

import torch
from torch import Tensor


class Plane(NamedTuple):
    """Bits ``shift`` .. ``shift + width`` of every code, as ggml lays them out.

    Runs of ``lanes`` codes are laid over each other: byte l of a run of bytes holds codes l, lanes + l, 2 lanes + l and
    so on, the first one in its lowest bits.
    """

    shift: int
    width: int
    lanes: int

    def size(self, count: int) -> int:
        """Bytes for ``count`` codes."""
        return count * self.width // 8

    def pack(self, codes: Tensor) -> Tensor:
        """Codes uint8 [..., count] -> uint8 [..., size(count)]."""
        part = (codes >> self.shift) & (2**self.width - 1)
        layers = part.unflatten(-1, (-1, 8 // self.width, self.lanes)) << self._positions(codes.device)
        return layers.sum(-2, dtype=torch.uint8).flatten(-2)

    def unpack(self, packed: Tensor) -> Tensor:
        """The bits of this plane at their place in the codes: inverse of :meth:`pack`."""
        layers = packed.unflatten(-1, (-1, 1, self.lanes)) >> self._positions(packed.device)
        return ((layers & (2**self.width - 1)) << self.shift).flatten(-3)

    def _positions(self, device: torch.device) -> Tensor:
        return torch.arange(0, 8, self.width, dtype=torch.uint8, device=device)[:, None]


class Trits(NamedTuple):
    """Base-3 digits, up to five to a byte; the byte is the digits' fraction of 3^5 in units of 1/256, rounded up.

    runs: (lanes, digits) of each run of bytes: byte l holds codes l, lanes + l, ..., the first as the leading digit.
    """

    runs: tuple[tuple[int, int], ...]

    def size(self, count: int) -> int:
        """Bytes for ``count`` codes, which is what one set of runs holds."""
        assert count == sum(lanes * digits for lanes, digits in self.runs)
        return sum(lanes for lanes, _ in self.runs)

    def pack(self, codes: Tensor) -> Tensor:
        """Codes uint8 [..., count] of 0, 1 or 2 -> uint8 [..., size(count)]."""
        packed, start = [], 0
        for lanes, digits in self.runs:
            layers = codes[..., start : start + lanes * digits].unflatten(-1, (digits, lanes)).int()
            place = 3 ** torch.arange(4, 4 - digits, -1, dtype=torch.int32, device=codes.device)[:, None]
            packed.append(((layers * place).sum(-2) * 256 + 242) // 243)
            start += lanes * digits
        return torch.cat(packed, -1).to(torch.uint8)

    def unpack(self, packed: Tensor) -> Tensor:
        """Inverse of :meth:`pack`."""
        codes, start = [], 0
        for lanes, digits in self.runs:
            leading = 3 ** torch.arange(digits, dtype=torch.int32, device=packed.device)[:, None]
            shifted = (packed[..., None, start : start + lanes].int() * leading) & 0xFF
            codes.append(((shifted * 3) >> 8).flatten(-2))
            start += lanes
        return torch.cat(codes, -1).to(torch.uint8)


class NibblePairs:
    """A 4-bit scale and a 4-bit minimum in one byte (Q2_K)."""

    def pack(self, scale: Tensor, minimum: Tensor) -> Tensor:
        """Two of uint8 [..., n] -> uint8 [..., n]."""
        return scale | (minimum << 4)

    def unpack(self, packed: Tensor) -> tuple[Tensor, Tensor]:
        """Inverse of :meth:`pack`."""
        return packed & 0x0F, packed >> 4


class SixBitPairs:
    """Eight 6-bit scales and eight 6-bit minima in twelve bytes (Q4_K, Q5_K).

    Bytes 0-3 hold scales 0-3, bytes 4-7 minima 0-3, each with the two high bits of the number four places on; bytes
    8-11 hold the low nibbles of scales 4-7 and, above them, of minima 4-7.
    """

    def pack(self, scale: Tensor, minimum: Tensor) -> Tensor:
        """Two of uint8 [..., 8] -> uint8 [..., 12]."""
        low = (scale[..., 4:] & 0x0F) | ((minimum[..., 4:] & 0x0F) << 4)
        return torch.cat([n[..., :4] | ((n[..., 4:] >> 4) << 6) for n in (scale, minimum)] + [low], -1)

    def unpack(self, packed: Tensor) -> tuple[Tensor, Tensor]:
        """Inverse of :meth:`pack`."""
        first, low = (packed[..., :4], packed[..., 4:8]), packed[..., 8:]
        high = (low & 0x0F, low >> 4)
        scale, minimum = (torch.cat([a & 0x3F, b | ((a >> 6) << 4)], -1) for a, b in zip(first, high, strict=True))
        return scale, minimum


class SignedSixBits:
    """Sixteen 6-bit scales, stored with 32 added, in twelve bytes: low nibbles, then the two high bits (Q3_K)."""

    _PLANES = (Plane(0, 4, 8), Plane(4, 2, 4))

    def pack(self, scale: Tensor, minimum: Tensor | None) -> Tensor:
        """int [..., 16] of -32..31 -> uint8 [..., 12]."""
        return torch.cat([plane.pack((scale + 32).to(torch.uint8)) for plane in self._PLANES], -1)

    def unpack(self, packed: Tensor) -> tuple[Tensor, None]:
        """Inverse of :meth:`pack`."""
        low, high = (p.unpack(part) for p, part in zip(self._PLANES, packed.split([8, 4], -1), strict=True))
        return (low | high).to(torch.int16) - 32, None


class SignedBytes:
    """A signed byte for each scale (Q6_K)."""

    def pack(self, scale: Tensor, minimum: Tensor | None) -> Tensor:
        """int [..., n] of -128..127 -> uint8 [..., n]."""
        return scale.to(torch.int8).view(torch.uint8)

    def unpack(self, packed: Tensor) -> tuple[Tensor, None]:
        """Inverse of :meth:`pack`."""
        return packed.contiguous().view(torch.int8), None
