"""Activation quantization: what is quantized at run time."""

from dataclasses import dataclass


@dataclass
class Activation:
    """The contract of the activation axis."""


@dataclass
class NoActivation(Activation):
    """Weight-only: activations stay in the model's dtype (A16)."""
