"""What a quantized tensor is: formats, quantized weights and their packing. Tensors only."""

from quantbench.formats.base import Format, GroupParams, group_slices
from quantbench.formats.integer import IntFormat
from quantbench.formats.packing import pack_bits, unpack_bits
from quantbench.formats.quantized import PackedWeight, QuantizedWeight

__all__ = [
    "Format",
    "GroupParams",
    "IntFormat",
    "PackedWeight",
    "QuantizedWeight",
    "group_slices",
    "pack_bits",
    "unpack_bits",
]
