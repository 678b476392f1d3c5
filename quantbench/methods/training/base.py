"""The contract of the training axis."""

from abc import ABC
from dataclasses import dataclass

from quantbench.methods.component import Component


@dataclass
class Training(Component, ABC):
    """Whether and how the whole model is trained with its quantization in the loop."""

    @property
    def trains(self) -> bool:
        """False for post-training quantization."""
        return True
