"""Training from the first weights on, with quantized linears."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from quantbench.methods.grid import Grid
from quantbench.methods.rounding.rtn import RTN
from quantbench.methods.rounding.tuner import OwnWeight
from quantbench.methods.training.base import Training
from quantbench.methods.training.weights import Refitted
from quantbench.methods.transform.base import NoTransform

if TYPE_CHECKING:
    from quantbench.methods.variant import Variant


@dataclass
class Scratch(Training):
    """The model's own training once more, with the same first weights, text and steps, but quantized linears.

    With ternary or binary weights and int8 inputs these are BitLinear of BitNet b1.58 (arXiv 2402.17764) or b1 (arXiv
    2310.11453): range and codes follow from the latent weights at every step, gradients pass both roundings as they
    are. The model itself is then the full-precision twin. lr_factor: what the model's learning rates are multiplied
    with.
    """

    lr_factor: float = 1.0

    def __post_init__(self) -> None:
        if not self.lr_factor > 0:
            raise ValueError(f"training.lr_factor={self.lr_factor}: allowed are positive numbers")

    def check(self, variant: "Variant") -> None:
        if not isinstance(variant.rounding, RTN) or not isinstance(variant.transform, NoTransform):
            raise ValueError(
                "training=scratch rounds to nearest at every step: allowed are rounding=rtn, transform=none"
            )
        if variant.range.needs_calibration or variant.range.needs_fisher or variant.allocation.keeps_weights:
            raise ValueError(
                "training=scratch knows nothing but the weights it has: allowed are ranges without calibration and "
                "allocations that keep no weights in 16 bits"
            )

    def tunable(self, latent: Tensor, grid: Grid, lr: float) -> OwnWeight:
        """A matrix [out, in] at its first weights. lr: the model's own rate."""
        return Refitted(latent, grid, lr * self.lr_factor)
