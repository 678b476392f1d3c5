"""The contract of the activation axis."""

from dataclasses import dataclass


@dataclass
class Activation:
    """What is quantized at run time."""
