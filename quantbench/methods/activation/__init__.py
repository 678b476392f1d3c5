"""Activation quantization: what is quantized at run time."""

from quantbench.methods.activation.base import Activation
from quantbench.methods.activation.none import NoActivation

__all__ = ["Activation", "NoActivation"]
