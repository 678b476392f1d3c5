"""Range: how scale and zero-point are fitted to a group of weights."""

from quantbench.methods.range.awq_clip import AWQClip
from quantbench.methods.range.base import Range
from quantbench.methods.range.minmax import MinMax

__all__ = ["AWQClip", "MinMax", "Range"]
