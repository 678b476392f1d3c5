"""Allocation: where the bits go."""

from quantbench.methods.allocation.base import Allocation
from quantbench.methods.allocation.uniform import Uniform

__all__ = ["Allocation", "Uniform"]
