"""Activation quantization: what is quantized at run time."""

from quantbench.methods.activation.base import Activation, InputQuantizer, QuantizedInputs
from quantbench.methods.activation.dynamic import DynamicActivation, DynamicQuantizer
from quantbench.methods.activation.llm_int8 import DecomposedQuantizer, LLMInt8
from quantbench.methods.activation.none import NoActivation
from quantbench.methods.activation.static import StaticActivation, StaticQuantizer

__all__ = [
    "Activation",
    "DecomposedQuantizer",
    "DynamicActivation",
    "DynamicQuantizer",
    "InputQuantizer",
    "LLMInt8",
    "NoActivation",
    "QuantizedInputs",
    "StaticActivation",
    "StaticQuantizer",
]
