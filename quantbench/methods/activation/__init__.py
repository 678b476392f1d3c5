"""Activation quantization: what is quantized at run time."""

from quantbench.methods.activation.base import Activation, InputQuantizer
from quantbench.methods.activation.dynamic import DynamicActivation, DynamicQuantizer
from quantbench.methods.activation.none import NoActivation

__all__ = ["Activation", "DynamicActivation", "DynamicQuantizer", "InputQuantizer", "NoActivation"]
