"""Multiplication with a packed matrix: codes stay packed in memory and are decoded on the way to the multiplier.

:func:`packed_linear` is a custom operator of torch, so that ``torch.compile`` and CUDA graphs take it as it is.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from quantbench.kernels.dispatch import use_triton
from quantbench.kernels.layout import DeviceWeight
from quantbench.kernels.linear import reference

MOST_ROWS = 64  # of x on a GPU; above, the matrix is decoded first. ``bench kernels`` shows both sides of it


def packed_linear(x: Tensor, weight: DeviceWeight) -> Tensor:
    """x [..., k] times the transpose of W [n, k]: [..., n] in the dtype of x.

    Sums are in fp32 and in a fixed order, so results repeat to the last bit. The multiplied weights are those of
    :func:`dequantize` (decoded in fp32, then rounded to the dtype of x), but for single rows on a GPU, whose weights
    are not rounded at all.
    """
    if not torch.compiler.is_compiling():  # an operator takes longer to reach than small products take
        return _multiplied(x, weight)
    zero = weight.zero if isinstance(weight.zero, Tensor) else None
    constant = 0.0 if isinstance(weight.zero, Tensor) else weight.zero
    columns, bits, group = weight.shape[1], weight.bits, weight.group_size
    numbers = (columns, bits, group, weight.minimum)
    return _packed_linear(x, weight.planes, weight.scale, zero, constant, weight.table, *numbers)


def dequantize(weight: DeviceWeight, dtype: torch.dtype) -> Tensor:
    """W transposed, [k, n], decoded in fp32 and rounded to ``dtype``."""
    if use_triton(weight.scale):
        from quantbench.kernels.linear import triton

        with torch.cuda.device_of(weight.scale):
            return triton.dequantize(weight, dtype)
    return reference.dequantize(weight, dtype)


@torch.library.custom_op("quantbench::packed_linear", mutates_args=())
def _packed_linear(
    x: Tensor,
    planes: Sequence[Tensor],
    scale: Tensor,
    zero: Tensor | None,
    constant: float,
    table: Tensor | None,
    columns: int,
    bits: int,
    group_size: int,
    minimum: bool,
) -> Tensor:
    shape = (scale.shape[1], columns)
    subtracted = constant if zero is None else zero
    weight = DeviceWeight(shape, bits, group_size, tuple(planes), scale, subtracted, table, minimum)
    return _multiplied(x, weight)


@_packed_linear.register_fake
def _(
    x: Tensor,
    planes: Sequence[Tensor],
    scale: Tensor,
    zero: Tensor | None,
    constant: float,
    table: Tensor | None,
    columns: int,
    bits: int,
    group_size: int,
    minimum: bool,
) -> Tensor:
    return x.new_empty(*x.shape[:-1], scale.shape[1])


def _multiplied(x: Tensor, weight: DeviceWeight) -> Tensor:
    rows = x.reshape(-1, weight.shape[1])
    if use_triton(x):
        from quantbench.kernels.linear import triton

        with torch.cuda.device_of(x):
            product = triton.packed_linear(rows, weight)
    else:
        product = reference.packed_linear(rows, weight)
    return product.view(*x.shape[:-1], weight.shape[0])
