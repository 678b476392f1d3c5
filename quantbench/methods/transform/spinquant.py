"""SpinQuant: rotations learned on the loss of the quantized network."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantbench.methods.transform.rotation import Hadamard

if TYPE_CHECKING:
    from quantbench.methods.variant import Variant


@dataclass
class SpinQuant(Hadamard):
    """Random Hadamard rotations, then turned further so that the quantized network loses less (arXiv 2405.16406).

    The residual stream's rotation R1 and one R2 for the values' heads of each block are learned by Cayley SGD on the
    next-token loss over calibration tokens of the network whose inputs of linears and keys and values are quantized as
    the run says, and whose weights are not: as the authors do where GPTQ rounds these. What runs online stays Hadamard.

    steps: of the optimiser; lr: its first learning rate, which falls linearly to zero; batch_size: calibration samples
    a step (the authors' 8 of 2048 tokens), in a new random order of ``seed`` each time they are used up.
    """

    online: bool = True
    steps: int = 100
    lr: float = 1.5
    batch_size: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 0:
            raise ValueError(f"transform.steps={self.steps}: allowed are 0 and positive integers")
        if not self.lr > 0:
            raise ValueError(f"transform.lr={self.lr}: allowed are positive numbers")
        if self.batch_size < 1:
            raise ValueError(f"transform.batch_size={self.batch_size}: allowed is a positive integer")

    @property
    def learns(self) -> bool:
        return True

    def check(self, variant: "Variant") -> None:
        if not (variant.activation.quantizes or variant.kv_cache.quantizes):
            raise ValueError(
                "transform=spinquant learns on what is quantized at run time: allowed only with activation or kv_cache"
                " other than none"
            )
