"""Formats whose value is a scale times an entry of a fixed table."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from quantbench.formats.base import Format, GroupParams
from quantbench.formats.table import CodeTable

SCALE_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
_LEAST_SCALE = 2.0**-127  # the smallest number with a finite fp32 reciprocal


@dataclass
class ScaledTable(Format, ABC):
    """``scale * table[code]``, the scale being max|w| over the table's largest magnitude (symmetric: no zero-point).

    scale_dtype: what scales are stored in, and rounded to before codes are computed.
    """

    scale_dtype: str = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale_dtype not in SCALE_DTYPES:
            raise ValueError(f"format.scale_dtype={self.scale_dtype}: allowed are {', '.join(SCALE_DTYPES)}")

    @abstractmethod
    def table(self, device: torch.device) -> CodeTable:
        """The values before scaling."""

    @property
    def stored_zero_point(self) -> bool:
        return False

    @property
    def storage_dtype(self) -> torch.dtype:
        return SCALE_DTYPES[self.scale_dtype]

    def params(self, low: Tensor, high: Tensor) -> GroupParams:
        scale = stored_scale(torch.maximum(-low, high) / self.table(low.device).top, self.storage_dtype)
        return GroupParams(scale, torch.zeros_like(scale))

    def storable(self, params: GroupParams) -> GroupParams:
        return params._replace(scale=stored_scale(params.scale, self.storage_dtype))

    def encode(self, weight: Tensor, params: GroupParams) -> Tensor:
        return self.table(weight.device).nearest(weight * inverse(params.scale))

    def decode(self, codes: Tensor, params: GroupParams) -> Tensor:
        return self.table(codes.device).decode(codes) * params.scale


def stored_scale(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Scales (>= 0) rounded to what ``dtype`` stores, fp32.

    Zero, the scale of an all-zero group, stays zero; any other becomes at least the smallest number that can be relied
    on: subnormal in float16, normal in the wider types, whose subnormals would spoil the products.
    """
    info = torch.finfo(dtype)
    smallest = max(info.tiny * info.eps, torch.finfo(torch.float32).tiny)
    return torch.where(scale > 0, scale.clamp(smallest, info.max), 0).to(dtype).float()


def inverse(scale: Tensor) -> Tensor:
    """1 / scale, finite for zero too. A product with it, not a quotient, is what bitsandbytes rounds."""
    return scale.clamp(min=_LEAST_SCALE).reciprocal()


def require(value: object, allowed: object, key: str, what: str) -> None:
    """One line for a number that a format fixes.

    Raises:
        ValueError: ``value`` is not ``allowed``.
    """
    if value != allowed:
        raise ValueError(f"{key}={value}: {what}; allowed is {allowed}")
