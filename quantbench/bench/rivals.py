"""Multiplication with quantized weights as others do it. Each raises where the machine lacks it."""

import torch
from torch import Tensor

from quantbench.bench.race import Call
from quantbench.formats import QuantizedWeight
from quantbench.kernels.layout import pack_words

_INNER_TILES = 8
_LEAST_INT_ROWS = 17  # torch._int_mm on CUDA asks for more than 16 rows


def int4pack(weight: QuantizedWeight, x: Tensor) -> Call:
    """tinygemm (CUDA) or its twin for processors: codes of our grid, scales and minima in the dtype of x.

    On a processor x is rounded to bfloat16, which its kernels are made for; fp32 is many times slower.
    """
    x = x if x.is_cuda else x.bfloat16()
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
    """One scale for each output channel, symmetric; inputs as in :func:`int4pack`."""
    x = x if x.is_cuda else x.bfloat16()
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


def onednn_int8(weight: QuantizedWeight, x: Tensor) -> Call:
    """oneDNN's int8 layer for processors; inputs take one scale for all tokens, since it knows no other."""
    if x.is_cuda:
        raise RuntimeError("a layer for processors")
    codes, scale = _int8_rows(weight.dequantize())
    prepared = torch.ops.onednn.qlinear_prepack(codes, list(x.shape))
    zero = torch.zeros(len(codes), dtype=torch.int32)

    def call() -> Tensor:
        step = float(x.abs().amax()) / 127
        tokens = torch.round(x / step).add_(128).clamp_(1, 255).to(torch.uint8)
        sides = (tokens, step, 128, prepared, scale[:, 0], zero)
        return torch.ops.onednn.qlinear_pointwise(*sides, None, 1.0, 0, torch.float32, "none", [], "").to(x.dtype)

    return call


def gemlite(weight: QuantizedWeight, x: Tensor) -> Call:
    """gemlite's Triton kernels: our codes, ``scale (code - zero)`` with both in the dtype of x."""
    from gemlite import DType, GemLiteLinear

    (rows, columns), kind = weight.shape, DType.BF16 if x.dtype == torch.bfloat16 else DType.FP16
    if not x.is_cuda or x.dtype not in (torch.bfloat16, torch.float16):
        raise RuntimeError("kernels for 16 bits on a GPU")
    layer = GemLiteLinear(
        weight.format.bits,
        group_size=weight.format.group_size,
        in_features=columns,
        out_features=rows,
        input_dtype=kind,
        output_dtype=kind,
    )
    layer.pack(weight.codes.contiguous(), weight.scale.to(x.dtype), weight.zero_point.to(x.dtype), None)
    return lambda: layer(x)


def marlin(weight: QuantizedWeight, x: Tensor) -> Call:
    """Marlin as vLLM has it, through its entry for zero-points: our codes, scales in the dtype of x."""
    from vllm import _custom_ops
    from vllm.model_executor.layers.quantization.utils import marlin_utils
    from vllm.scalar_type import scalar_types

    (rows, columns), bits, size = weight.shape, weight.format.bits, weight.format.group_size
    assert size is not None
    kind = scalar_types.uint4 if bits == 4 else scalar_types.uint8
    none = marlin_utils.marlin_make_empty_g_idx(x.device)
    (words,) = pack_words(weight.codes, bits)  # GPTQ's layout: neighbours along k in a word, the first lowest
    codes = _custom_ops.gptq_marlin_repack(words, none, columns, rows, bits)
    scale = marlin_utils.marlin_permute_scales(weight.scale.T.contiguous().to(x.dtype), columns, rows, size)
    zero = marlin_utils.marlin_zero_points(weight.zero_point.T.int().contiguous(), columns // size, rows, bits)
    workspace = marlin_utils.marlin_make_workspace_new(x.device)
    arguments = (codes, scale, zero, none, none, workspace, kind, rows, columns)
    return lambda: marlin_utils.apply_awq_marlin_linear(x, *arguments)


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
