"""What ``bench kernels`` times of layers that are computed in 8 bits."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear as dense_linear

from quantbench.bench import rivals
from quantbench.bench.kernel_cases import Case, Entry, beside_torch, weight_matrix
from quantbench.bench.race import buffers_past_cache
from quantbench.formats import FP8, IntFormat
from quantbench.kernels import linear, w8a8
from quantbench.kernels.w8a8 import reference
from quantbench.methods.grid import Grid
from quantbench.methods.range import MinMax
from quantbench.models.w8a8 import byte_weight

_INPUTS: dict[str, IntFormat | FP8] = {
    "int8": IntFormat(bits=8, group_size=None, symmetric=True, narrow_range=True, scale_dtype="float32"),
    "e4m3": FP8(),
}


def cases(device: torch.device, size: int, rows: Sequence[int]) -> Iterator[Case]:
    """Quantizing tokens, and whole layers: inputs quantized token by token, in the time, times 8-bit weights."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    for name, format in _INPUTS.items():
        yield _tokens(device, size, name, format, dtype)
        for m in rows:
            yield _linear(device, size, name, format, m, dtype)


def _tokens(device: torch.device, size: int, name: str, format: IntFormat | FP8, dtype: torch.dtype) -> Case:
    nbytes = size * size * (dtype.itemsize + 1)
    copies = buffers_past_cache(nbytes, device)
    inputs = [weight_matrix(device, size, seed).to(dtype) for seed in range(copies)]
    entries = beside_torch(
        inputs,
        Entry(lambda i: lambda: w8a8.quantize_tokens(inputs[i], format, width=size).codes.float(), 0.0),
        Entry(lambda i: lambda: reference.quantize_tokens(inputs[i], format, None, 1.0, size)[0].float(), 0.0),
    )

    def expected() -> Tensor:
        return reference.quantize_tokens(inputs[0], format, None, 1.0, size)[0].float()

    return Case(f"tokens to {name}, {size} x {size}", expected, entries, nbytes, copies=copies)


def _linear(device: torch.device, size: int, name: str, format: IntFormat | FP8, m: int, dtype: torch.dtype) -> Case:
    copies = buffers_past_cache(size * size, device)
    quantized = [Grid(format, MinMax()).nearest(weight_matrix(device, size, seed), None) for seed in range(copies)]
    weights, dense = [byte_weight(weight) for weight in quantized], [w.dequantize().to(dtype) for w in quantized]
    x = torch.randn(m, size, generator=torch.Generator().manual_seed(m)).to(device, dtype)
    rounding = 4 * torch.finfo(dtype).eps
    entries = {
        "ours": Entry(lambda i: lambda: w8a8.w8a8_linear(x, weights[i], format), rounding),
        f"dense {str(dtype).removeprefix('torch.')}": Entry(lambda i: lambda: dense_linear(x, dense[i]), 0.05),
    }
    if device.type == "cpu":
        short = [weight.bfloat16() for weight in dense]
        entries["dense bfloat16"] = Entry(lambda i: lambda: dense_linear(x.bfloat16(), short[i]), 0.05)
    if name == "int8":
        entries["torch, unfused"] = Entry(lambda i: rivals.int8_by_int8(quantized[i], x), 0.01)
        entries["onednn qlinear"] = Entry(lambda i: rivals.onednn_int8(quantized[i], x), 0.05)
    else:
        entries["torch, unfused"] = Entry(lambda i: rivals.fp8_by_fp8(quantized[i], x), 0.01)

    def expected() -> Tensor:
        tokens = Grid(format, MinMax()).nearest(x.float(), None).dequantize()
        return tokens @ quantized[0].dequantize().T

    return Case(
        f"linear w8a8 {name} {size}x{size}, {m} row{'s' * (m > 1)}",
        expected,
        entries,
        size * size + 2 * m * size * dtype.itemsize,
        flops=2 * m * size * size,
        copies=copies,
        unit="bandwidth" if m <= linear.MOST_ROWS else "compute",
    )
