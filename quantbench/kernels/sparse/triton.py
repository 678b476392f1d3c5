"""Multiplication with compressed rows in Triton: a program adds up one row of the matrix for a few tokens."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantbench.kernels.compiled import Specialization

_TOKENS, _BLOCK = 16, 32


@triton.jit
def sparse_kernel(result, x, pointers, columns, values, m_rows, rows, width, TOKENS: tl.constexpr, BLOCK: tl.constexpr):
    """result [m, n] for TOKENS rows of x [m, width] and one row of the matrix."""
    n = tl.program_id(0)
    m = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    start, stop = tl.load(pointers + n), tl.load(pointers + n + 1)
    total = tl.zeros((TOKENS, BLOCK), tl.float32)
    for first in range(start, stop, BLOCK):
        place = first + tl.arange(0, BLOCK)
        c = tl.load(columns + place, mask=place < stop, other=0)
        v = tl.load(values + place, mask=place < stop, other=0.0)
        inside = (m[:, None] < m_rows) & (place[None, :] < stop)
        xs = tl.load(x + m[:, None].to(tl.int64) * width + c[None, :], mask=inside, other=0.0)
        total += xs.to(tl.float32) * v[None, :]
    tl.store(result + m.to(tl.int64) * rows + n, tl.sum(total, 1), mask=m < m_rows)


def sparse_linear(x: Tensor, pointers: Tensor, columns: Tensor, values: Tensor) -> Tensor:
    """x [m, k] times S^T [k, n], fp32."""
    x, (m, width), n = x.contiguous(), x.shape, len(pointers) - 1
    result = torch.empty((m, n), dtype=torch.float32, device=x.device)
    sparse_kernel[(n, triton.cdiv(m, _TOKENS))](
        result, x, pointers, columns, values, m, n, width, TOKENS=_TOKENS, BLOCK=_BLOCK, enable_fp_fusion=True
    )
    return result


def specializations() -> list[Specialization]:
    """Inputs in float16."""
    arguments = {"result": "*fp32", "x": "*fp16", "pointers": "*i32", "columns": "*i32", "values": "*fp32"}
    arguments |= dict.fromkeys(("m_rows", "rows", "width"), "i32")
    return [Specialization("sparse", sparse_kernel, arguments, {"TOKENS": _TOKENS, "BLOCK": _BLOCK})]
