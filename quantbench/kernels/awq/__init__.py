"""What rounding makes of weights that AWQ has scaled: the inner step of its grid search."""

import torch
from torch import Tensor

from quantbench.formats import IntFormat
from quantbench.kernels.awq import reference
from quantbench.kernels.dispatch import use_triton


def scaled_nearest(weight: Tensor, scale: Tensor, format: IntFormat) -> Tensor:
    """W [n, k] rounded to nearest on min-max groups of W s, and divided by s [k] again: fp32 [n, k]."""
    if use_triton(weight):
        from quantbench.kernels.awq import triton

        with torch.cuda.device_of(weight):
            return triton.scaled_nearest(weight, scale, format)
    return reference.scaled_nearest(weight, scale, format)
