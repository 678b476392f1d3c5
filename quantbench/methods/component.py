"""What every choice on every axis has in common."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quantbench.methods.variant import Variant


@dataclass
class Component:
    """A choice on one axis. It is a dataclass: its fields are its hyperparameters, checked when it is made."""

    @property
    def needs_calibration(self) -> bool:
        """Whether it looks at activations (second moments, magnitudes)."""
        return False

    @property
    def needs_fisher(self) -> bool:
        """Whether it looks at squared gradients of the loss, one for each weight (a backward pass)."""
        return False

    @property
    def needs_pairs(self) -> bool:
        """Whether it compares each token's inputs with those of the same token in full precision."""
        return False

    @property
    def needs_inputs(self) -> bool:
        """Whether it looks at the inputs of linears themselves: at some of the tokens, or at a histogram of all."""
        return False

    @property
    def runs_online(self) -> bool:
        """Whether it changes the basis of inputs while the model runs, beside what the model's own layers compute."""
        return False

    def check(self, variant: "Variant") -> None:
        """Refuse a combination with the other axes that has no meaning.

        Raises:
            ValueError: names the setting and what is allowed, in one line.
        """
