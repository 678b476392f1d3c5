"""What the GGUF types have in common: fixed blocks, a signed or an affine code, ggml's byte layout."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from quantbench.formats.base import Format, GroupParams, Levels, Settled
from quantbench.formats.gguf.layout import NibblePairs, Plane, SignedBytes, SignedSixBits, SixBitPairs, Trits
from quantbench.formats.quantized import QuantizedWeight


@dataclass
class GGUFFormat(Format):
    """A block type of ggml with one scale a block; bits and group_size are those of the type and no others.

    Two kinds of code: signed, ``scale * (code - offset)``, whose scale may be negative so that the weight of largest
    magnitude gets the lowest code; and affine, ``scale * code - zero_point``, where the zero-point is a value. Packed
    codes and levels together are the bytes of ggml's blocks, which :func:`ggml_blocks` puts in ggml's order.
    """

    block: ClassVar[int]
    """Weights in a block."""
    layout: ClassVar[tuple[Plane | Trits, ...]]
    """The bytes of the codes."""
    order: ClassVar[tuple[str, ...]]
    """The parts of a block in ggml's order: codes and levels."""
    fallback: ClassVar[type["GGUFFormat"] | None] = None
    """What llama.cpp takes instead where the input channels are no multiple of the block."""

    def __post_init__(self) -> None:
        super().__post_init__()
        natural = type(self)
        if (self.bits, self.group_size) != (natural.bits, natural.group_size):
            raise ValueError(
                f"bits={self.bits}, group_size={self.group_size}: allowed for {natural.__name__} are "
                f"bits={natural.bits}, group_size={natural.group_size} (method={natural.__name__.lower()} sets them)"
            )
        if self.per_tensor:
            raise ValueError(f"format.per_tensor=true: {natural.__name__} has a scale for each block")

    @property
    @abstractmethod
    def offset(self) -> int | None:
        """The code that means zero; None for an affine type."""

    @property
    def code_range(self) -> tuple[int, int]:
        """The lowest and the highest code in use."""
        return 0, 2**self.bits - 1

    @property
    def stored_zero_point(self) -> bool:
        return self.offset is None

    @property
    def storage_dtype(self) -> torch.dtype:
        return torch.float16

    @property
    def joint(self) -> bool:
        return True

    def for_shape(self, rows: int, columns: int) -> "GGUFFormat":
        if columns % self.block == 0:
            return self
        if self.fallback is None:
            raise ValueError(
                f"{type(self).__name__}: {columns} input channels are no multiple of {self.block}, the smallest block "
                "of GGUF; leave such layers in full precision (allocation.skip)"
            )
        return self.fallback().for_shape(rows, columns)

    def params(self, low: Tensor, high: Tensor) -> GroupParams:
        lowest, highest = self.code_range
        if self.offset is None:
            return GroupParams((high - low) / highest, -low)
        down, up = self.offset - lowest, highest - self.offset
        upright = torch.maximum(-low / down, high / up)
        turned = torch.maximum(high / down, -low / up)
        scale = torch.where(turned < upright, -turned, upright)
        return GroupParams(scale, torch.full_like(scale, self.offset))

    def encode(self, weight: Tensor, params: GroupParams) -> Tensor:
        lowest, highest = self.code_range
        scale = params.scale.masked_fill(params.scale == 0, torch.inf)  # every weight of such a group gets one code
        if self.offset is None:
            return torch.round((weight + params.zero_point) / scale).clamp_(lowest, highest)
        return torch.round(weight / scale).add_(params.zero_point).clamp_(lowest, highest)

    def decode(self, codes: Tensor, params: GroupParams) -> Tensor:
        if self.offset is None:
            return codes * params.scale - params.zero_point
        return (codes - params.zero_point) * params.scale

    def settle(self, params: GroupParams) -> Settled:
        """Round scale (and minimum) to float16. ggml stores the minimum itself, not what is subtracted."""
        levels = {"d": to_half(params.scale)}
        if self.offset is None:
            levels["m"] = to_half(-params.zero_point)
        return Settled(self.expand(levels, *params.scale.shape), levels)

    def expand(self, levels: Levels, rows: int, groups: int) -> GroupParams:
        scale = levels["d"].float()
        return GroupParams(scale, self._zero_point(scale) if self.offset is not None else -levels["m"].float())

    def _zero_point(self, scale: Tensor) -> Tensor:
        assert self.offset is not None
        return torch.full_like(scale, self.offset)

    def code_bytes(self, columns: int) -> int:
        return columns // self.block * sum(part.size(self.block) for part in self.layout)

    def pack_codes(self, codes: Tensor) -> Tensor:
        blocks = codes.unflatten(-1, (-1, self.block))
        return torch.cat([part.pack(blocks) for part in self.layout], -1).flatten(-2)

    def unpack_codes(self, packed: Tensor, columns: int) -> Tensor:
        sizes = [part.size(self.block) for part in self.layout]
        parts = packed.unflatten(-1, (-1, sum(sizes))).split(sizes, -1)
        codes = torch.zeros(len(packed), columns, dtype=torch.uint8, device=packed.device)
        for part, stored in zip(self.layout, parts, strict=True):
            codes |= part.unpack(stored).flatten(-2)
        return codes


@dataclass
class SuperBlock(GGUFFormat):
    """A block of 256 weights whose groups' scales (and minima) are integers times a float16 scale of the block."""

    block: ClassVar[int] = 256
    scale_codes: ClassVar[tuple[int, int]]
    """The lowest and the highest integer scale."""
    scale_layout: ClassVar[NibblePairs | SixBitPairs | SignedSixBits | SignedBytes]

    def settle(self, params: GroupParams) -> Settled:
        """Integer scales nearest to the given ones; the largest of a block sets the block's scale."""
        scale, d = self._integers(params.scale)
        if self.offset is not None:
            return self.assemble(d, scale)
        return self.assemble(d, scale, *reversed(self._integers(params.zero_point)))

    def _integers(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Values [rows, groups] as integers [rows, blocks, groups of a block] times a float16 d [rows, blocks]."""
        lowest, highest = self.scale_codes
        blocks = values.unflatten(-1, (-1, self.groups))
        extreme = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))
        d = to_half(extreme / (lowest or highest))  # signed integers reach further down than up
        step = d.float()
        codes = torch.round(blocks / step.masked_fill(step == 0, torch.inf)).clamp_(lowest, highest)
        return codes, d.squeeze(-1)

    @property
    def groups(self) -> int:
        """Groups in a block."""
        assert self.group_size is not None
        return self.block // self.group_size

    def assemble(self, d: Tensor, scale: Tensor, dmin: Tensor | None = None, minimum: Tensor | None = None) -> Settled:
        """Parameters and bytes of given block scales [rows, blocks] and integers [rows, blocks, groups of a block]."""
        dtype = torch.int16 if self.scale_codes[0] else torch.uint8
        packed = self.scale_layout.pack(scale.to(dtype), None if minimum is None else minimum.to(dtype))  # type: ignore[arg-type]
        levels = {"scales": packed.flatten(-2), "d": to_half(d)}
        if dmin is not None:
            levels["dmin"] = to_half(dmin)
        rows, blocks = d.shape
        return Settled(self.expand(levels, rows, blocks * self.groups), levels)

    def expand(self, levels: Levels, rows: int, groups: int) -> GroupParams:
        packed = levels["scales"].unflatten(-1, (groups // self.groups, -1))
        integers, minima = self.scale_layout.unpack(packed)
        scale = (integers * levels["d"].float()[..., None]).flatten(-2)
        if minima is None:
            return GroupParams(scale, self._zero_point(scale))
        return GroupParams(scale, (minima * levels["dmin"].float()[..., None]).flatten(-2))


def to_half(values: Tensor) -> Tensor:
    """As float16; what is too large becomes the largest finite number."""
    limit = torch.finfo(torch.float16).max
    return values.clamp(-limit, limit).to(torch.float16)


def ggml_blocks(weight: QuantizedWeight) -> Tensor:
    """The bytes of ggml's blocks, row by row: uint8 [rows, bytes of a row].

    Raises:
        ValueError: the weight holds what ggml has no place for: another format, outliers, permuted groups.
    """
    format = weight.format
    if not isinstance(format, GGUFFormat) or weight.outliers is not None or weight.group_index is not None:
        raise ValueError("allowed in ggml blocks are the GGUF formats, without outliers or permuted groups")
    stored = weight.pack().tensors
    blocks = weight.shape[1] // format.block
    parts = [stored[name].contiguous().view(torch.uint8).unflatten(-1, (blocks, -1)) for name in format.order]
    return torch.cat(parts, -1).flatten(-2)
