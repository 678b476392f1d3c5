"""What a quantized tensor is: formats, quantized weights and their packing. Tensors only."""

from quantbench.formats.base import Format, GroupParams, Levels, Settled, group_slices
from quantbench.formats.bilevel import IntBilevel
from quantbench.formats.codebook import Codebook
from quantbench.formats.floats import FP8, MXFP4, NVFP4
from quantbench.formats.integer import IntFormat
from quantbench.formats.lowbit import Binary, Ternary
from quantbench.formats.lut import LUT
from quantbench.formats.outliers import Outliers
from quantbench.formats.packing import pack_bits, unpack_bits
from quantbench.formats.quantized import PackedWeight, QuantizedWeight

__all__ = [
    "FP8",
    "LUT",
    "MXFP4",
    "NVFP4",
    "Binary",
    "Codebook",
    "Format",
    "GroupParams",
    "IntBilevel",
    "IntFormat",
    "Levels",
    "Outliers",
    "PackedWeight",
    "QuantizedWeight",
    "Settled",
    "Ternary",
    "group_slices",
    "pack_bits",
    "unpack_bits",
]
