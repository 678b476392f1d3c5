"""The same bits everywhere."""

from dataclasses import dataclass

from quantbench.methods.allocation.base import Allocation


@dataclass
class Uniform(Allocation):
    """Every quantized linear gets the run's format."""
