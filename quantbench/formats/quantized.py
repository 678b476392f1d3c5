"""A quantized matrix: codes, scales, zero-points, and the bytes they take."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from quantbench.formats.base import Format, GroupParams
from quantbench.formats.packing import pack_bits, packed_bytes, unpack_bits


@dataclass(frozen=True)
class PackedWeight:
    """The bytes of a quantized matrix, as they would lie in a file; ``shape`` is [out, in]."""

    shape: tuple[int, int]
    codes: Tensor
    scale: Tensor
    zero_point: Tensor | None
    group_index: Tensor | None

    @property
    def nbytes(self) -> int:
        """Everything stored, in bytes."""
        tensors = (self.codes, self.scale, self.zero_point, self.group_index)
        return sum(t.numel() * t.element_size() for t in tensors if t is not None)


@dataclass(frozen=True)
class QuantizedWeight:
    """W [out, in] as integers: ``W[r, c] = scale[r, g] * (codes[r, c] - zero_point[r, g])`` with ``g = group of c``.

    codes: uint8 [out, in], unpacked; scale and zero_point: fp32 [out, groups]; group_index: int [in] for groups that do
    not follow the column order (GPTQ's act-order without static groups), None otherwise.
    """

    format: Format
    codes: Tensor
    scale: Tensor
    zero_point: Tensor
    group_index: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """[out, in]."""
        return self.codes.shape[0], self.codes.shape[1]

    def column_groups(self) -> Tensor:
        """The group of each input channel, int64 [in]."""
        if self.group_index is not None:
            return self.group_index
        columns = self.shape[1]
        size = self.format.group_size or columns
        return torch.arange(columns, device=self.codes.device) // size

    def dequantize(self) -> Tensor:
        """The matrix that the codes stand for, fp32 [out, in]."""
        groups = self.column_groups()
        return self.format.decode(self.codes.float(), GroupParams(self.scale[:, groups], self.zero_point[:, groups]))

    @property
    def nbytes(self) -> int:
        """Bytes of :meth:`pack`'s result, from the shapes alone."""
        (rows, columns), groups = self.shape, self.scale.shape[1]
        total = rows * packed_bytes(columns, self.format.bits) + rows * groups * self.format.storage_dtype.itemsize
        if self.format.stored_zero_point:
            total += rows * packed_bytes(groups, self.format.bits)
        if self.group_index is not None:
            total += columns * 4
        return total

    @property
    def bits_per_weight(self) -> float:
        """Stored bits over weights: codes, scales, zero-points and group indices all counted."""
        return 8 * self.nbytes / self.codes.numel()

    def pack(self) -> PackedWeight:
        """The bytes to store."""
        return PackedWeight(
            shape=self.shape,
            codes=pack_bits(self.codes, self.format.bits),
            scale=self.scale.to(self.format.storage_dtype),
            zero_point=pack_bits(self.zero_point, self.format.bits) if self.format.stored_zero_point else None,
            group_index=None if self.group_index is None else self.group_index.to(torch.int32),
        )

    @classmethod
    def unpack(cls, packed: PackedWeight, *, format: Format) -> "QuantizedWeight":
        """Inverse of :meth:`pack`."""
        scale = packed.scale.float()
        if packed.zero_point is None:
            zero_point = format.params(-torch.ones_like(scale), torch.ones_like(scale)).zero_point
        else:
            zero_point = unpack_bits(packed.zero_point, format.bits, scale.shape[1]).float()
        return cls(
            format=format,
            codes=unpack_bits(packed.codes, format.bits, packed.shape[1]),
            scale=scale,
            zero_point=zero_point,
            group_index=None if packed.group_index is None else packed.group_index.long(),
        )

    def split_rows(self, sizes: list[int]) -> "list[QuantizedWeight]":
        """Cut along the output channels: rows are independent, so matrices that share an input are solved as one."""
        parts = zip(self.codes.split(sizes), self.scale.split(sizes), self.zero_point.split(sizes), strict=True)
        return [replace(self, codes=c, scale=s, zero_point=z) for c, s, z in parts]

    def to(self, device: torch.device | str) -> "QuantizedWeight":
        """The same weight on another device."""
        index = None if self.group_index is None else self.group_index.to(device)
        return replace(
            self,
            codes=self.codes.to(device),
            scale=self.scale.to(device),
            zero_point=self.zero_point.to(device),
            group_index=index,
        )
