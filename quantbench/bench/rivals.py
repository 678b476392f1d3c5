"""Multiplication with quantized weights as torch and bitsandbytes do it. Each raises where the machine lacks it."""

import torch
from torch import Tensor

from quantbench.bench.race import Call
from quantbench.formats import QuantizedWeight

_INNER_TILES = 8
_LEAST_INT_ROWS = 17  # torch._int_mm on CUDA asks for more than 16 rows


def int4pack(weight: QuantizedWeight, x: Tensor) -> Call:
    """tinygemm (CUDA) or its twin for processors: codes of our grid, scales and minima in the dtype of x."""
    size = weight.format.group_size
    assert size is not None
    scale, codes = weight.scale.T, weight.codes.int()
    minimum = scale * (8 - weight.zero_point.T)  # value = scale (code - 8) + minimum
    parameters = torch.stack([scale, minimum], 2).to(x.dtype).contiguous()
    if x.is_cuda:
        pairs = (codes[:, ::2] << 4 | codes[:, 1::2]).to(torch.uint8)
        packed = torch._convert_weight_to_int4pack(pairs, _INNER_TILES)
        return lambda: torch._weight_int4pack_mm(x, packed, size, parameters)
    packed = torch._convert_weight_to_int4pack_for_cpu(codes, 1)
    return lambda: torch._weight_int4pack_mm_for_cpu(x, packed, size, parameters)


def int8pack(weight: QuantizedWeight, x: Tensor) -> Call:
    """One scale for each output channel, symmetric."""
    codes, scale = _int8_rows(weight.dequantize())
    return lambda: torch._weight_int8pack_mm(x, codes, scale[:, 0].to(x.dtype))


def int8_by_int8(weight: QuantizedWeight, x: Tensor) -> Call:
    """W8A8: inputs are quantized too, each token by itself, in the time that is measured."""
    codes, scale = _int8_rows(weight.dequantize())
    if x.is_cuda and len(x) < _LEAST_INT_ROWS:
        raise RuntimeError(f"torch._int_mm needs {_LEAST_INT_ROWS} rows")

    def call() -> Tensor:
        rows, row_scale = _int8_rows(x)
        return (torch._int_mm(rows, codes.T).float() * row_scale * scale.T).to(x.dtype)

    return call


def fp8_by_fp8(weight: QuantizedWeight, x: Tensor) -> Call:
    """Weights and inputs in e4m3, a scale for each output channel and each token."""
    codes, scale = _fp8_rows(weight.dequantize())

    def call() -> Tensor:
        rows, row_scale = _fp8_rows(x)
        product = torch._scaled_mm(rows, codes.T, row_scale, scale.T.contiguous(), out_dtype=torch.bfloat16)
        return product.to(x.dtype)

    return call


def bitsandbytes_nf4(weight: QuantizedWeight, x: Tensor) -> Call:
    """bitsandbytes' own NF4 of the same weights, which lie on the grid already."""
    import bitsandbytes

    assert weight.format.group_size is not None
    dense = weight.dequantize().to(x.dtype)
    codes, state = bitsandbytes.functional.quantize_4bit(dense, blocksize=weight.format.group_size, quant_type="nf4")
    return lambda: bitsandbytes.matmul_4bit(x, codes.t(), state)


def _int8_rows(values: Tensor) -> tuple[Tensor, Tensor]:
    scale = values.abs().amax(1, keepdim=True).float().clamp(min=1e-12) / 127
    return torch.round(values / scale).clamp_(-127, 127).to(torch.int8), scale


def _fp8_rows(values: Tensor) -> tuple[Tensor, Tensor]:
    scale = values.abs().amax(1, keepdim=True).float().clamp(min=1e-12) / torch.finfo(torch.float8_e4m3fn).max
    return (values / scale).to(torch.float8_e4m3fn), scale
