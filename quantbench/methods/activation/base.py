"""The contract of the activation axis."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from quantbench.methods.component import Component


@dataclass
class Activation(Component, ABC):
    """How the inputs of the linear layers are quantized at run time."""

    @property
    def quantizes(self) -> bool:
        """False for the choice that leaves them in the model's dtype."""
        return True

    @property
    @abstractmethod
    def nominal_bits(self) -> int:
        """Bits of a code; 16 where nothing is quantized."""
