"""Uniform integers of 2 to 8 bits, symmetric or asymmetric."""

from dataclasses import dataclass

import torch
from torch import Tensor

from quantbench.formats.base import Format, GroupParams
from quantbench.formats.scaled import SCALE_DTYPES

MIN_BITS, MAX_BITS = 2, 8


@dataclass
class IntFormat(Format):
    """Codes 0 .. 2^bits - 1 with value ``scale * (code - zero_point)``.

    Asymmetric: the range is [min(w, 0), max(w, 0)], so zero is always representable; the zero-point is a code and takes
    ``bits`` bits a group. Symmetric: the zero-point is the constant 2^(bits-1) and the scale is 2 max|w| / (2^bits - 1)
    (GPTQ's and llm-compressor's convention), or max|w| / (2^(bits-1) - 1) with ``narrow_range``, which uses only the
    codes -(2^(bits-1) - 1) .. 2^(bits-1) - 1 (LLM.int8()'s absmax).

    zero_point_dtype: ``int``, or the floating point type of a real zero-point (HQQ), which lets the grid lie anywhere:
    zero is then on the grid only by chance. Codes are unsigned; a convention with signed ones (codes from -2^(bits-1),
    zero-point round(-min / scale) - 2^(bits-1)) shifts code and zero-point alike and gives the same values.

    Scales and real zero-points are rounded to their dtype before codes are computed, so what is scored is what can be
    stored.
    """

    symmetric: bool = False
    scale_dtype: str = "float16"
    narrow_range: bool = False
    zero_point_dtype: str = "int"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not MIN_BITS <= self.bits <= MAX_BITS:
            raise ValueError(f"bits={self.bits}: allowed for integers are {MIN_BITS} to {MAX_BITS}")
        if self.scale_dtype not in SCALE_DTYPES:
            raise ValueError(f"format.scale_dtype={self.scale_dtype}: allowed are {', '.join(SCALE_DTYPES)}")
        if self.zero_point_dtype not in ("int", *SCALE_DTYPES):
            allowed = ", ".join(("int", *SCALE_DTYPES))
            raise ValueError(f"format.zero_point_dtype={self.zero_point_dtype}: allowed are {allowed}")
        if self.symmetric and self.real_zero_point:
            raise ValueError(f"format.zero_point_dtype={self.zero_point_dtype}: allowed only with symmetric=false")
        if self.narrow_range and not self.symmetric:
            raise ValueError("format.narrow_range=true: allowed only with symmetric=true")

    @property
    def stored_zero_point(self) -> bool:
        return not self.symmetric

    @property
    def storage_dtype(self) -> torch.dtype:
        return SCALE_DTYPES[self.scale_dtype]

    @property
    def real_zero_point(self) -> bool:
        """Whether the zero-point is a floating point number instead of a code."""
        return self.zero_point_dtype != "int"

    @property
    def real_zero_dtype(self) -> torch.dtype:
        """What a real zero-point is stored in; fp32 where it is a code."""
        return SCALE_DTYPES.get(self.zero_point_dtype, torch.float32)

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
        return GroupParams(scale, self.rounded_zero_point(-low / scale))

    def rounded_zero_point(self, zero_point: Tensor) -> Tensor:
        """A zero-point as it is stored: a code, or a real number of ``zero_point_dtype``."""
        if self.real_zero_point:
            return zero_point.to(self.real_zero_dtype).float()
        return torch.round(zero_point).clamp_(0, self.max_code)

    def storable(self, params: GroupParams) -> GroupParams:
        return GroupParams(self._stored(params.scale), self.rounded_zero_point(params.zero_point))

    def encode(self, weight: Tensor, params: GroupParams) -> Tensor:
        if self.real_zero_point:
            return (weight / params.scale).add_(params.zero_point).round_().clamp_(0, self.max_code)
        lowest = 1 if self.narrow_range else 0
        return torch.round(weight / params.scale).add_(params.zero_point).clamp_(lowest, self.max_code)

    def decode(self, codes: Tensor, params: GroupParams) -> Tensor:
        return (codes - params.zero_point) * params.scale

    def _pack_zero_point(self, zero_point: Tensor) -> Tensor:
        if self.real_zero_point:
            return zero_point.to(self.real_zero_dtype)
        return super()._pack_zero_point(zero_point)

    def _unpack_zero_point(self, packed: Tensor, groups: int) -> Tensor:
        return packed.float() if self.real_zero_point else super()._unpack_zero_point(packed, groups)

    def _stored(self, scale: Tensor) -> Tensor:
        """Round to the storage dtype; zero (an all-zero group) or an underflow becomes the smallest usable number."""
        info = torch.finfo(self.storage_dtype)
        smallest = max(info.tiny * info.eps, torch.finfo(torch.float32).tiny)  # float16 keeps its subnormals
        return scale.clamp(smallest, info.max).to(self.storage_dtype).float()
