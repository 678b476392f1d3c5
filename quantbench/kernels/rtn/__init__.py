"""Round to nearest on min-max groups: find each group's range, its parameters and its codes, and pack them."""

import torch
from torch import Tensor

from quantbench.formats import GroupParams, IntFormat
from quantbench.kernels.dispatch import use_triton
from quantbench.kernels.layout import PLANES, WORD, DeviceWeight
from quantbench.kernels.rtn import reference


def quantize(weight: Tensor, format: IntFormat) -> tuple[Tensor, GroupParams]:
    """Codes uint8 [n, k] and parameters [n, groups] of W [n, k] in fp32, whose scale is not of the whole matrix.

    A group's range is [min(w, 0), max(w, 0)], and its parameters are those of ``format.params``.
    """
    if use_triton(weight):
        from quantbench.kernels.rtn import triton

        with torch.cuda.device_of(weight):
            return triton.quantize(weight, format)
    return reference.quantize(weight, format)


def quantize_packed(weight: Tensor, format: IntFormat) -> DeviceWeight:
    """:func:`quantize`, with the codes as words and the parameters as they are stored.

    Raises:
        ValueError: words would hold weights of two groups, or zero-points are no codes.
    """
    columns = weight.shape[1]
    size, widths = format.group_size or columns, PLANES.get(format.bits)
    fills_words = widths is not None and (size >= columns or size * min(widths) % WORD == 0)
    if format.real_zero_point or not fills_words:  # a program writes the words of its group
        raise ValueError(
            f"bits={format.bits}, group_size={format.group_size}, zero_point_dtype={format.zero_point_dtype}: allowed "
            "are 2 to 6 and 8 bits in groups that fill words (multiples of 32 always do), and integer zero-points"
        )
    if use_triton(weight):
        from quantbench.kernels.rtn import triton

        with torch.cuda.device_of(weight):
            return triton.quantize_packed(weight, format)
    return reference.quantize_packed(weight, format)
