"""The contract of a number format: which values a code can mean, and what is stored beside the codes."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class GroupParams(NamedTuple):
    """What turns codes into values, for each row of a group: ``scale * (code - zero_point)``.

    scale: [rows, groups] fp32, already rounded to the dtype it is stored in; zero_point: the same shape, integer
    valued fp32.
    """

    scale: Tensor
    zero_point: Tensor


@dataclass
class Format(ABC):
    """A number format. Fields are its hyperparameters; methods are its math.

    group_size is the number of neighbouring input channels that share one scale; None means the whole row.
    """

    bits: int = 4
    group_size: int | None = 128

    def __post_init__(self) -> None:
        if self.group_size == -1:  # the literature's spelling of "the whole row"
            self.group_size = None
        if self.group_size is not None and self.group_size < 1:
            raise ValueError(f"group_size={self.group_size}: allowed is a positive integer, or -1 or null (whole row)")

    @property
    @abstractmethod
    def stored_zero_point(self) -> bool:
        """Whether a zero-point is stored for each group (otherwise it is a constant of the format)."""

    @property
    @abstractmethod
    def storage_dtype(self) -> torch.dtype:
        """The dtype in which scales are stored."""

    @abstractmethod
    def params(self, low: Tensor, high: Tensor) -> GroupParams:
        """Scale and zero-point that cover the range [low, high] (any equal shapes, low <= 0 <= high)."""

    @abstractmethod
    def encode(self, weight: Tensor, params: GroupParams) -> Tensor:
        """Nearest code of each weight, as floating point integers; ``params`` broadcast against ``weight``."""

    @abstractmethod
    def decode(self, codes: Tensor, params: GroupParams) -> Tensor:
        """Values of the codes, in fp32; ``params`` broadcast against ``codes``."""

    def group_slices(self, columns: int) -> list[slice]:
        """The groups along a row of ``columns`` weights; the last one may be ragged."""
        return group_slices(columns, self.group_size)


def group_slices(columns: int, group_size: int | None) -> list[slice]:
    """Cut ``columns`` into groups of ``group_size`` (None: one group); the last one may be shorter."""
    size = columns if group_size is None else group_size
    return [slice(start, min(start + size, columns)) for start in range(0, columns, size)]
