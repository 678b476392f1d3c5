"""Post-training quantization alone."""

from dataclasses import dataclass

from quantbench.methods.training.base import Training


@dataclass
class NoTraining(Training):
    """Nothing moves once the codes are chosen (PTQ)."""

    @property
    def trains(self) -> bool:
        return False
