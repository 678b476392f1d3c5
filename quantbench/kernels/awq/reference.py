"""Rounding scaled weights in torch."""

from torch import Tensor

from quantbench.formats import IntFormat, QuantizedWeight
from quantbench.kernels.rtn.reference import quantize


def scaled_nearest(weight: Tensor, scale: Tensor, format: IntFormat) -> Tensor:
    """W rounded on the grid of W s."""
    return QuantizedWeight(format, *quantize(weight * scale, format)).dequantize() / scale
