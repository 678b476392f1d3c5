"""Weights kept in 16 bits beside a quantized matrix, as a sparse matrix in compressed rows."""

from dataclasses import dataclass

import torch
from torch import Tensor

VALUE_DTYPE = torch.float16
_SHORT_COLUMNS = 2**15


@dataclass(frozen=True)
class Outliers:
    """Entries of a matrix [rows, columns] that are stored as they are instead of as codes.

    index: int64 [n], flat positions ``row * columns + column`` in ascending order; value: fp32 [n], already rounded to
    float16, the dtype they are stored in.
    """

    shape: tuple[int, int]
    index: Tensor
    value: Tensor

    @classmethod
    def of(cls, weight: Tensor, mask: Tensor) -> "Outliers":
        """The entries of ``weight`` [rows, columns] where ``mask`` (bool) is true."""
        index = mask.flatten().nonzero()[:, 0]
        return cls((weight.shape[0], weight.shape[1]), index, stored_value(weight.flatten()[index]))

    @property
    def column_dtype(self) -> torch.dtype:
        """The dtype of stored column numbers."""
        return torch.int16 if self.shape[1] <= _SHORT_COLUMNS else torch.int32

    @property
    def nbytes(self) -> int:
        """Bytes of :meth:`pack`'s result: a value and a column number each, and a pointer for every row."""
        return len(self.index) * (VALUE_DTYPE.itemsize + self.column_dtype.itemsize) + 4 * (self.shape[0] + 1)

    def put(self, dense: Tensor) -> Tensor:
        """``dense`` with these entries in their places."""
        return dense.flatten().index_copy(0, self.index, self.value.to(dense.dtype)).view(self.shape)

    def pack(self) -> dict[str, Tensor]:
        """Compressed rows: outlier_rows int32 [rows + 1], outlier_columns [n], outlier_values float16 [n]."""
        rows, columns = self.index // self.shape[1], self.index % self.shape[1]
        counts = torch.bincount(rows, minlength=self.shape[0])
        pointers = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).to(torch.int32)
        return {
            "outlier_rows": pointers,
            "outlier_columns": columns.to(self.column_dtype),
            "outlier_values": self.value.to(VALUE_DTYPE),
        }

    @classmethod
    def unpack(cls, stored: dict[str, Tensor], shape: tuple[int, int]) -> "Outliers":
        """Inverse of :meth:`pack`."""
        pointers = stored["outlier_rows"].long()
        rows = torch.arange(shape[0], device=pointers.device).repeat_interleave(pointers.diff())
        return cls(shape, rows * shape[1] + stored["outlier_columns"].long(), stored["outlier_values"].float())

    def split_rows(self, sizes: list[int]) -> "list[Outliers]":
        """Cut along the rows."""
        parts, start = [], 0
        for size in sizes:
            inside = (self.index >= start * self.shape[1]) & (self.index < (start + size) * self.shape[1])
            index = self.index[inside] - start * self.shape[1]
            parts.append(Outliers((size, self.shape[1]), index, self.value[inside]))
            start += size
        return parts

    def to(self, device: torch.device | str) -> "Outliers":
        """The same on another device."""
        return Outliers(self.shape, self.index.to(device), self.value.to(device))


def stored_value(weight: Tensor) -> Tensor:
    """Weights as outliers store them: rounded to float16, fp32."""
    limit = torch.finfo(VALUE_DTYPE).max
    return weight.clamp(-limit, limit).to(VALUE_DTYPE).float()
