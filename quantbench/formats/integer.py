"""Uniform integers of 2 to 8 bits, symmetric or asymmetric."""

from dataclasses import dataclass

import torch
from torch import Tensor

from quantbench.formats.base import Format, GroupParams

MIN_BITS, MAX_BITS = 2, 8
_SCALE_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass
class IntFormat(Format):
    """Codes 0 .. 2^bits - 1 with value ``scale * (code - zero_point)``.

    Asymmetric: the range is [min(w, 0), max(w, 0)], so zero is always representable; the zero-point is a code and takes
    ``bits`` bits a group. Symmetric: the zero-point is the constant 2^(bits-1) and the scale is 2 max|w| / (2^bits - 1)
    (GPTQ's and llm-compressor's convention), or max|w| / (2^(bits-1) - 1) with ``narrow_range``, which uses only the
    codes -(2^(bits-1) - 1) .. 2^(bits-1) - 1 (LLM.int8()'s absmax).

    Scales are rounded to ``scale_dtype`` before codes are computed, so what is scored is what can be stored.
    """

    symmetric: bool = False
    scale_dtype: str = "float16"
    narrow_range: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not MIN_BITS <= self.bits <= MAX_BITS:
            raise ValueError(f"bits={self.bits}: allowed for integers are {MIN_BITS} to {MAX_BITS}")
        if self.scale_dtype not in _SCALE_DTYPES:
            raise ValueError(f"format.scale_dtype={self.scale_dtype}: allowed are {', '.join(_SCALE_DTYPES)}")
        if self.narrow_range and not self.symmetric:
            raise ValueError("format.narrow_range=true: allowed only with symmetric=true")

    @property
    def stored_zero_point(self) -> bool:
        return not self.symmetric

    @property
    def storage_dtype(self) -> torch.dtype:
        return _SCALE_DTYPES[self.scale_dtype]

    @property
    def max_code(self) -> int:
        """The largest code, 2^bits - 1."""
        return 2**self.bits - 1

    def params(self, low: Tensor, high: Tensor) -> GroupParams:
        if self.symmetric:
            steps = 2 * (2 ** (self.bits - 1) - 1) if self.narrow_range else self.max_code
            scale = self._stored(2 * torch.maximum(-low, high) / steps)
            return GroupParams(scale, torch.full_like(scale, 2 ** (self.bits - 1)))
        scale = self._stored((high - low) / self.max_code)
        return GroupParams(scale, torch.round(-low / scale).clamp_(0, self.max_code))

    def encode(self, weight: Tensor, params: GroupParams) -> Tensor:
        lowest = 1 if self.narrow_range else 0
        return torch.round(weight / params.scale).add_(params.zero_point).clamp_(lowest, self.max_code)

    def decode(self, codes: Tensor, params: GroupParams) -> Tensor:
        return (codes - params.zero_point) * params.scale

    def _stored(self, scale: Tensor) -> Tensor:
        """Round to the storage dtype; zero (an all-zero group) or an underflow becomes the smallest usable number."""
        info = torch.finfo(self.storage_dtype)
        smallest = max(info.tiny * info.eps, torch.finfo(torch.float32).tiny)  # float16 keeps its subnormals
        return scale.clamp(smallest, info.max).to(self.storage_dtype).float()
