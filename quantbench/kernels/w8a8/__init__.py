"""Multiplication in 8 bits: inputs are quantized token by token, and int8 or fp8 codes multiplied by torch's products.

:func:`w8a8_linear` is a custom operator of torch, so that ``torch.compile`` and CUDA graphs take it as it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from quantbench.formats import FP8, GroupParams, IntFormat
from quantbench.kernels.dispatch import use_triton
from quantbench.kernels.w8a8 import reference

MOST_COLUMNS = 2**15  # so that sums of products of 8-bit codes, less their zero-points, fit 32 bits
_ALIGN = 16  # what the products of codes on a GPU ask of both sides of W
_LEAST_ROWS = 32  # torch._int_mm on CUDA asks for more than 16
_FP8_CAPABILITY = (8, 9)


class Tokens(NamedTuple):
    """x [m, k] as codes [m, width], int8 or e4m3, with zeros after the k-th; ``x = scale (codes - zero)``.

    scale: fp32 [m]; zero: int32 [m]; sums: int32 [m], of a token's codes (of no meaning for e4m3).
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor
    sums: Tensor


@dataclass(frozen=True)
class ByteWeight:
    """W [n, k] in bytes: ``scale (codes - zero)``, a scale and a zero-point for each row.

    codes: int8 or e4m3, padded with zeros to multiples of 16; scale: fp32 [n]; zero, sums: int32 [n], sums of a row's
    codes (zeros for e4m3). offset: whether any zero-point may differ from zero.
    """

    shape: tuple[int, int]
    codes: Tensor
    scale: Tensor
    zero: Tensor
    sums: Tensor
    offset: bool = True

    @classmethod
    def of(cls, codes: Tensor, scale: Tensor, zero: Tensor | None = None) -> "ByteWeight":
        """codes: int8 or e4m3 [n, k]; scale [n]; zero: whole numbers [n], None for zeros."""
        (n, k), bytes_ = codes.shape, codes.view(torch.uint8)
        padded = torch.nn.functional.pad(bytes_, (0, -k % _ALIGN, 0, -n % _ALIGN)).view(codes.dtype)
        zero = torch.zeros(n, device=codes.device) if zero is None else zero
        sums = torch.zeros_like(zero) if codes.is_floating_point() else codes.sum(1)
        offset = bool(zero.any())
        return cls((n, k), padded, scale.float().contiguous(), zero.to(torch.int32), sums.to(torch.int32), offset)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Everything that lies on the device, by name."""
        return {"codes": self.codes, "scale": self.scale, "zero": self.zero, "sums": self.sums}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> "ByteWeight":
        """The same matrix in other places of memory, given by the names of :attr:`tensors`."""
        codes, scale, zero, sums = (tensors[name] for name in self.tensors)
        return ByteWeight(self.shape, codes, scale, zero, sums, self.offset)

    def dequantize(self) -> Tensor:
        """W, fp32 [n, k]."""
        return self._decoded(self.codes[:, : self.shape[1]])

    def columns(self, index: Tensor) -> Tensor:
        """Some columns of W, fp32 [n, len(index)]."""
        return self._decoded(self.codes.view(torch.uint8).index_select(1, index).view(self.codes.dtype))

    def _decoded(self, codes: Tensor) -> Tensor:
        return (codes[: self.shape[0]].float() - self.zero[:, None]) * self.scale[:, None]


def multiplies(format: IntFormat | FP8, device: torch.device) -> bool:
    """Whether codes of such a format can be multiplied on the device."""
    if isinstance(format, FP8):
        able = device.type == "cpu" or torch.cuda.get_device_capability(device) >= _FP8_CAPABILITY
        return format.element == "e4m3" and able
    return not format.real_zero_point


def quantize_tokens(
    x: Tensor, format: IntFormat | FP8, params: GroupParams | None = None, *, clip: float = 1.0, width: int
) -> Tokens:
    """Quantize each row of x [m, k]: the codes and the scale are those of ``format`` for the row, in fp32.

    params: scale and zero-point of each row [m], found before; None to take the range of the row, times ``clip``.
    """
    if use_triton(x):
        from quantbench.kernels.w8a8 import triton

        with torch.cuda.device_of(x):
            return Tokens(*triton.quantize_tokens(x, format, params, clip, width))
    return Tokens(*reference.quantize_tokens(x, format, params, clip, width))


def w8a8_linear(
    x: Tensor, weight: ByteWeight, format: IntFormat | FP8, params: GroupParams | None = None, *, clip: float = 1.0
) -> Tensor:
    """x [..., k], quantized as :func:`quantize_tokens` does, times the transpose of W: [..., n] in the dtype of x.

    Products of int8 are exact; their sum is rounded to fp32, scaled, and rounded to the dtype of x. Sums of e4m3 are
    fp32's; a result in bfloat16 is rounded by the product itself.
    """
    if not torch.compiler.is_compiling():  # an operator takes longer to reach than small products take
        return _multiplied(x, weight, format, params, clip)
    float8 = isinstance(format, FP8)
    symmetric, narrow = (True, False) if isinstance(format, FP8) else (format.symmetric, format.narrow_range)
    scale, zero = (None, None) if params is None else (params.scale, params.zero_point)
    codes = weight.codes.view(torch.uint8) if float8 else weight.codes  # torch's checks of operators know no float8
    numbers = (weight.shape[0], format.bits, float8, symmetric, narrow, format.scale_dtype, clip)
    return _w8a8_linear(x, codes, weight.scale, weight.zero, weight.sums, scale, zero, *numbers)


@torch.library.custom_op("quantbench::w8a8_linear", mutates_args=())
def _w8a8_linear(
    x: Tensor,
    codes: Tensor,
    scale: Tensor,
    zero: Tensor,
    sums: Tensor,
    input_scale: Tensor | None,
    input_zero: Tensor | None,
    out: int,
    bits: int,
    float8: bool,
    symmetric: bool,
    narrow: bool,
    scale_dtype: str,
    clip: float,
) -> Tensor:
    params = None if input_scale is None or input_zero is None else GroupParams(input_scale, input_zero)
    if float8:
        codes = codes.view(torch.float8_e4m3fn)
        format: IntFormat | FP8 = FP8(scale_dtype=scale_dtype)
    else:
        format = IntFormat(bits, None, symmetric=symmetric, narrow_range=narrow, scale_dtype=scale_dtype)
    return _multiplied(x, ByteWeight((out, x.shape[-1]), codes, scale, zero, sums), format, params, clip)


@_w8a8_linear.register_fake
def _(
    x: Tensor,
    codes: Tensor,
    scale: Tensor,
    zero: Tensor,
    sums: Tensor,
    input_scale: Tensor | None,
    input_zero: Tensor | None,
    out: int,
    bits: int,
    float8: bool,
    symmetric: bool,
    narrow: bool,
    scale_dtype: str,
    clip: float,
) -> Tensor:
    return x.new_empty(*x.shape[:-1], out)


def _multiplied(
    x: Tensor, weight: ByteWeight, format: IntFormat | FP8, params: GroupParams | None, clip: float
) -> Tensor:
    rows = x.reshape(-1, x.shape[-1])
    tokens = quantize_tokens(rows, format, params, clip=clip, width=weight.codes.shape[1])
    product = (_fp8 if isinstance(format, FP8) else _int8)(tokens, weight, x.dtype)
    return product.view(*x.shape[:-1], weight.shape[0])


def _int8(tokens: Tokens, weight: ByteWeight, dtype: torch.dtype) -> Tensor:
    """[m, n] in ``dtype``."""
    codes = tokens.codes
    if codes.is_cuda and len(codes) < _LEAST_ROWS:
        codes = torch.nn.functional.pad(codes, (0, 0, 0, _LEAST_ROWS - len(codes)))
    product = torch._int_mm(codes, weight.codes.T)[: len(tokens.codes)]
    if use_triton(product):
        from quantbench.kernels.w8a8 import triton

        with torch.cuda.device_of(product):
            return triton.rescaled(product, *tokens[1:], weight, dtype)
    return reference.rescaled(product, *tokens[1:], weight, dtype)


def _fp8(tokens: Tokens, weight: ByteWeight, dtype: torch.dtype) -> Tensor:
    """[m, n] in ``dtype``. Products with a scale for each row give bfloat16 alone on a GPU."""
    n = weight.shape[0]
    if dtype == torch.bfloat16:
        padded = torch.nn.functional.pad(weight.scale, (0, len(weight.codes) - n))
        product = torch._scaled_mm(
            tokens.codes, weight.codes.T, tokens.scale[:, None], padded[None], out_dtype=torch.bfloat16
        )
        return product[:, :n].contiguous()
    one = torch.ones((), device=tokens.codes.device)
    product = torch._scaled_mm(tokens.codes, weight.codes.T, one, one, out_dtype=torch.float32)[:, :n]
    return (product * tokens.scale[:, None] * weight.scale).to(dtype)
