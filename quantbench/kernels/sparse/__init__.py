"""Multiplication with a few weights in compressed rows, beside a packed matrix that holds the others.

:func:`add_sparse` is a custom operator of torch, so that ``torch.compile`` and CUDA graphs take it as it is.
"""

import torch
from torch import Tensor

from quantbench.kernels.dispatch import use_triton
from quantbench.kernels.sparse import reference


@torch.library.custom_op("quantbench::add_sparse", mutates_args=())
def add_sparse(y: Tensor, x: Tensor, pointers: Tensor, columns: Tensor, values: Tensor) -> Tensor:
    """y [..., n] plus x [..., k] times the transpose of S [n, k], summed in fp32 in a fixed order.

    pointers: int32 [n + 1], where each row of S begins; columns: int32, ascending in a row; values: fp32.
    """
    rows = x.reshape(-1, x.shape[-1])
    if use_triton(x):
        from quantbench.kernels.sparse import triton

        with torch.cuda.device_of(x):
            product = triton.sparse_linear(rows, pointers, columns, values)
    else:
        product = reference.sparse_linear(rows, pointers, columns, values)
    return y + product.view(y.shape).to(y.dtype)


@add_sparse.register_fake
def _(y: Tensor, x: Tensor, pointers: Tensor, columns: Tensor, values: Tensor) -> Tensor:
    return torch.empty_like(y)
