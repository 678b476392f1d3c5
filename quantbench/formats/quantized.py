"""A quantized matrix: codes, what decodes them, and the bytes they take."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from quantbench.formats.base import Format, GroupParams, Levels
from quantbench.formats.outliers import Outliers


@dataclass(frozen=True)
class PackedWeight:
    """The bytes of a quantized matrix, as they would lie in a file; ``shape`` is [out, in].

    tensors: ``codes`` uint8 [out, bytes]; ``scale``, ``zero_point``, ``codebook`` or the format's second-level tensors;
    ``group_index`` and ``outlier_*`` where there are any.
    """

    shape: tuple[int, int]
    tensors: dict[str, Tensor]

    @property
    def nbytes(self) -> int:
        """Everything stored, in bytes."""
        return sum(t.numel() * t.element_size() for t in self.tensors.values())


@dataclass(frozen=True)
class QuantizedWeight:
    """W [out, in] as codes: ``W[r, c] = format.decode(codes[r, c], params of row r and the group of c)``.

    codes: uint8 [out, in], unpacked; params: of every group; levels: what is stored instead of the parameters where
    they are themselves quantized (see ``Format.settle``); group_index: int [in] for groups that do not follow the
    column order (GPTQ's act-order without static groups); outliers: entries kept in 16 bits.
    """

    format: Format
    codes: Tensor
    params: GroupParams
    levels: Levels | None = field(default=None)
    group_index: Tensor | None = None
    outliers: Outliers | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """[out, in]."""
        return self.codes.shape[0], self.codes.shape[1]

    @property
    def scale(self) -> Tensor:
        """fp32 [out, groups]."""
        return self.params.scale

    @property
    def zero_point(self) -> Tensor:
        """fp32 [out, groups]."""
        return self.params.zero_point

    def column_groups(self) -> Tensor:
        """The group of each input channel, int64 [in]."""
        if self.group_index is not None:
            return self.group_index
        columns = self.shape[1]
        size = self.format.group_size or columns
        return torch.arange(columns, device=self.codes.device) // size

    def dequantize(self) -> Tensor:
        """The matrix that the codes stand for, fp32 [out, in]."""
        dense = self.params.by_column(self.format.decode, self.codes.float(), self.column_groups())
        return dense if self.outliers is None else self.outliers.put(dense)

    @property
    def nbytes(self) -> int:
        """Bytes of :meth:`pack`'s result."""
        total = self.shape[0] * self.format.code_bytes(self.shape[1])
        total += sum(t.numel() * t.element_size() for t in self._stored().values())
        return total + (0 if self.outliers is None else self.outliers.nbytes)

    @property
    def bits_per_weight(self) -> float:
        """Stored bits over weights: codes, scales, zero-points, indices and outliers all counted."""
        return 8 * self.nbytes / self.codes.numel()

    def pack(self) -> PackedWeight:
        """The bytes to store."""
        tensors = {"codes": self.format.pack_codes(self.codes), **self._stored()}
        if self.outliers is not None:
            tensors |= self.outliers.pack()
        return PackedWeight(self.shape, tensors)

    def _stored(self) -> dict[str, Tensor]:
        """What lies beside the codes and the outliers."""
        tensors = dict(self.levels) if self.levels is not None else self.format.stored_params(self.params)
        if self.group_index is not None:
            tensors["group_index"] = self.group_index.to(torch.int32)
        return tensors

    @classmethod
    def unpack(cls, packed: PackedWeight, *, format: Format) -> "QuantizedWeight":
        """Inverse of :meth:`pack`."""
        stored, (rows, columns) = dict(packed.tensors), packed.shape
        codes, index = format.unpack_codes(stored.pop("codes"), columns), stored.pop("group_index", None)
        outliers = Outliers.unpack(stored, packed.shape) if "outlier_rows" in stored else None
        beside = {name: tensor for name, tensor in stored.items() if not name.startswith("outlier_")}
        groups = len(format.group_slices(columns))
        params = format.expand(beside, rows, groups) if format.joint else format.restored_params(beside, groups)
        return cls(
            format=format,
            codes=codes,
            params=params,
            levels=beside if format.joint else None,
            group_index=None if index is None else index.long(),
            outliers=outliers,
        )

    def split_rows(self, sizes: list[int]) -> "list[QuantizedWeight]":
        """Cut along the output channels: rows are independent, so matrices that share an input are solved as one."""
        if len(sizes) == 1:
            return [self]
        assert self.format.rows_independent, "rows of such a format are not solved as one"
        outliers = [None] * len(sizes) if self.outliers is None else self.outliers.split_rows(sizes)
        parts, start = [], 0
        for size, kept in zip(sizes, outliers, strict=True):
            rows = slice(start, start + size)
            levels = None if self.levels is None else {name: t[rows] for name, t in self.levels.items()}
            params = self.params.map(lambda t, rows=rows: t[rows])  # type: ignore[misc]
            parts.append(replace(self, codes=self.codes[rows], params=params, levels=levels, outliers=kept))
            start += size
        return parts

    def to(self, device: torch.device | str) -> "QuantizedWeight":
        """The same weight on another device."""
        return replace(
            self,
            codes=self.codes.to(device),
            params=self.params.map(lambda t: t.to(device)),
            levels=None if self.levels is None else {name: t.to(device) for name, t in self.levels.items()},
            group_index=None if self.group_index is None else self.group_index.to(device),
            outliers=None if self.outliers is None else self.outliers.to(device),
        )
