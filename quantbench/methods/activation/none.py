"""No activation quantization."""

from dataclasses import dataclass

from quantbench.methods.activation.base import Activation
from quantbench.methods.histogram import Histogram


@dataclass
class NoActivation(Activation):
    """Weight-only: activations stay in the model's dtype (A16)."""

    @property
    def quantizes(self) -> bool:
        return False

    @property
    def nominal_bits(self) -> int:
        return 16

    def quantizer(self, name: str, role: str, seen: Histogram | None = None) -> None:
        return None
