"""The contract of the KV-cache axis."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from quantbench.methods.component import Component


@dataclass
class KVCache(Component, ABC):
    """How the keys and values of past tokens are stored while a model runs."""

    @property
    def quantizes(self) -> bool:
        """False for the choice that leaves them in the model's dtype."""
        return True

    @property
    @abstractmethod
    def nominal_bits(self) -> int:
        """Bits of a code; 16 where nothing is quantized."""
