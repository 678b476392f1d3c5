"""GGUF: the block types of ggml, byte for byte."""

from quantbench.formats.gguf.base import GGUFFormat, SuperBlock, ggml_blocks
from quantbench.formats.gguf.types import Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0, TQ1_0, TQ2_0

__all__ = [
    "Q2_K",
    "Q3_K",
    "Q4_0",
    "Q4_1",
    "Q4_K",
    "Q5_0",
    "Q5_1",
    "Q5_K",
    "Q6_K",
    "Q8_0",
    "TQ1_0",
    "TQ2_0",
    "GGUFFormat",
    "SuperBlock",
    "ggml_blocks",
]
