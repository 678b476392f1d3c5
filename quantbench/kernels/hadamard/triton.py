"""The Walsh-Hadamard transform in Triton: a program holds whole blocks in registers for all log2(block) stages."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantbench.kernels.compiled import Specialization

_ELEMENTS = 4096  # of a tile
_WARP_ELEMENTS = 1024


@triton.jit
def hadamard_kernel(
    result, x, blocks,
    FACTOR: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Each stage adds and subtracts neighbours and puts sums before differences, which turns the index by one bit."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    place = rows[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = rows[:, None] < blocks
    y = tl.load(x + place, mask=inside, other=0.0).to(tl.float64 if WIDE else tl.float32)
    for _ in tl.static_range(STAGES):
        a, b = tl.split(tl.reshape(y, (ROWS, BLOCK // 2, 2)))
        y = tl.reshape(tl.permute(tl.join(a + b, a - b), (0, 2, 1)), (ROWS, BLOCK))
    tl.store(result + place, (y * FACTOR).to(result.dtype.element_ty), mask=inside)


def transform(x: Tensor, block: int) -> Tensor:
    """x [..., n] times H / sqrt(block) in every block."""
    x = x.contiguous()
    result, blocks = torch.empty_like(x), x.numel() // block
    rows = max(1, _ELEMENTS // block)
    hadamard_kernel[(triton.cdiv(blocks, rows),)](
        result, x, blocks, num_warps=_warps(rows * block), enable_fp_fusion=False,
        **_constants(block, rows, x.dtype == torch.float64)
    )  # fmt: skip
    return result


def _constants(block: int, rows: int, wide: bool) -> dict[str, Any]:
    """The factor is one of these: an argument would reach the kernel in fp32."""
    return {"FACTOR": block**-0.5, "ROWS": rows, "BLOCK": block, "STAGES": block.bit_length() - 1, "WIDE": wide}


def _warps(elements: int) -> int:
    return min(16, max(4, elements // _WARP_ELEMENTS))


def specializations() -> list[Specialization]:
    """Blocks of 128 and of whole rows, in 16 bits and in the fp64 that models are rotated in."""
    found = []
    for block, kind in ((128, "fp16"), (8192, "fp16"), (4096, "fp64")):
        rows = max(1, _ELEMENTS // block)
        constants = _constants(block, rows, kind == "fp64")
        arguments = {"result": f"*{kind}", "x": f"*{kind}", "blocks": "i32"}
        name = f"hadamard {block} {kind}"
        found.append(Specialization(name, hadamard_kernel, arguments, constants, warps=_warps(rows * block)))
    return found
