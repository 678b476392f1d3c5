"""Mixed precision: each linear has its own bits, and all together meet a budget."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from quantbench.formats import Format
from quantbench.methods.allocation.base import Allocation

if TYPE_CHECKING:
    from quantbench.methods.variant import Variant

SENSITIVITIES = ("hessian", "fisher", "kl")


@dataclass
class Mixed(Allocation):
    """Each linear gets one of the ``candidates`` bits, so that the model loses least within ``budget`` bits per weight.

    The loss is taken to be the sum over linears of what rounding each to nearest alone does (HAWQ-V3, arXiv 2011.10680,
    solves the same integer program). sensitivity: ``hessian``, the squared error of the linear's output per token,
    tr(dW H dW^T), exactly, or as a fraction of the output's own energy tr(W H W^T) with ``relative``; ``fisher``, sum
    F dW^2 with F the mean squared gradient of the loss; ``kl``, the KL divergence of the model's next-token
    distribution from full precision's on ``samples`` calibration sequences, by running the rest of the model for every
    linear and candidate. In this order they cost more and come closer to what is wanted: a linear's own output error
    does not say what the model makes of it.

    budget: mean bits per weight over all linears of the decoder blocks, counted from stored bytes: scales, zero-points
    and indices included, skipped linears at 16 bits. null: what the run's own ``bits`` would take everywhere, so that
    ``allocation=uniform,mixed`` compares equal sizes. A transform is not seen by the sensitivities.

    plan: bits by a linear's dotted name; computed before the first linear is quantized, unless given.
    """

    candidates: list[int] = field(default_factory=lambda: [2, 3, 4, 8])
    budget: float | None = None
    sensitivity: str = "fisher"
    relative: bool = True
    samples: int = 4
    plan: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.candidates or len(set(self.candidates)) < len(self.candidates) or min(self.candidates) < 1:
            raise ValueError(f"allocation.candidates={self.candidates}: allowed are different positive numbers of bits")
        if self.budget is not None and not self.budget > 0:
            raise ValueError(f"allocation.budget={self.budget}: allowed is a positive number of bits, or null")
        if self.sensitivity not in SENSITIVITIES:
            raise ValueError(f"allocation.sensitivity={self.sensitivity}: allowed are {', '.join(SENSITIVITIES)}")
        if self.samples < 1:
            raise ValueError(f"allocation.samples={self.samples}: allowed is a positive integer")

    @property
    def needs_calibration(self) -> bool:
        return not self.plan

    @property
    def needs_fisher(self) -> bool:
        return not self.plan and self.sensitivity == "fisher"

    def check(self, variant: "Variant") -> None:
        for bits in self.candidates:
            try:
                replace(variant.format, bits=bits)
            except ValueError as error:
                raise ValueError(f"allocation.candidates={self.candidates}: the format refuses {error}") from error

    def format_of(self, name: str, format: Format) -> Format:
        return replace(format, bits=self.plan[name]) if name in self.plan else format

    def formats(self, format: Format) -> list[Format]:
        return [replace(format, bits=bits) for bits in self.candidates]
