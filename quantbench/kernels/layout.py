"""How a quantized matrix lies in memory for the kernels that multiply with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

WORD = 32
# A code is cut into bit planes whose widths divide a word, the low bits first: true 3 bits are 2 + 1.
PLANES = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 8: (8,)}


@dataclass(frozen=True)
class DeviceWeight:
    """W [n, k] as codes: ``(code - zero) * scale``, or ``table[code] * scale`` where there is a table.

    minimum: the value is ``code * scale - zero`` instead.

    planes: int32 [ceil(k * width / 32), n] for each of ``PLANES[bits]``; neighbours along k share a word, the first in
    its lowest bits, and n is contiguous. scale [groups, n], a row for each ``group_size`` neighbours along k, the last
    of which may be fewer; zero: [groups, n], or a number for all; table: [2^bits], or one for each group of a row
    [groups, n, 2^bits].
    """

    shape: tuple[int, int]
    bits: int
    group_size: int
    planes: tuple[Tensor, ...]
    scale: Tensor
    zero: Tensor | float
    table: Tensor | None = None
    minimum: bool = False

    @property
    def own_tables(self) -> bool:
        """Whether each group of a row has a table of its own."""
        return self.table is not None and self.table.ndim > 1

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Everything that lies on the device, by name."""
        found = {f"plane_{index}": plane for index, plane in enumerate(self.planes)} | {"scale": self.scale}
        if isinstance(self.zero, Tensor):
            found["zero"] = self.zero
        return found if self.table is None else found | {"table": self.table}

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return sum(t.numel() * t.element_size() for t in self.tensors.values())

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> "DeviceWeight":
        """The same matrix in other places of memory, given by the names of :attr:`tensors`."""
        return replace(
            self,
            planes=tuple(tensors[f"plane_{index}"] for index in range(len(self.planes))),
            scale=tensors["scale"],
            zero=tensors.get("zero", self.zero),
            table=tensors.get("table"),
        )

    def to(self, device: torch.device | str) -> "DeviceWeight":
        """The same matrix on another device."""
        return self.with_tensors({name: tensor.to(device) for name, tensor in self.tensors.items()})


def packable(bits: int, group_size: int, columns: int) -> bool:
    """Whether codes of this width can be multiplied: no word of their low bits holds weights of two groups."""
    return bits in PLANES and (group_size >= columns or group_size * PLANES[bits][0] % WORD == 0)


def pack_words(codes: Tensor, bits: int) -> tuple[Tensor, ...]:
    """Codes [n, k] as bit planes, int32 [ceil(k * width / 32), n] each; the last word is padded with zeros."""
    planes, shift = [], 0
    for width in PLANES[bits]:
        each = WORD // width
        part = codes.T.long() >> shift & (2**width - 1)
        part = torch.nn.functional.pad(part, (0, 0, 0, -len(part) % each)).view(-1, each, part.shape[1])
        shifts = torch.arange(each, device=codes.device)[:, None] * width
        words = (part << shifts).sum(1)
        planes.append(torch.where(words < 2**31, words, words - 2**32).to(torch.int32))
        shift += width
    return tuple(planes)


def unpack_words(planes: Sequence[Tensor], bits: int, columns: int) -> Tensor:
    """Inverse of :func:`pack_words`, along k: int32 codes [k, n]."""
    codes, shift = None, 0
    for words, width in zip(planes, PLANES[bits], strict=True):
        shifts = torch.arange(WORD // width, device=words.device, dtype=torch.int32)[:, None] * width
        part = (words[:, None, :] >> shifts).bitwise_and_(2**width - 1).flatten(0, 1)[:columns]
        codes = part if codes is None else codes.bitwise_or_(part << shift)
        shift += width
    assert codes is not None
    return codes
