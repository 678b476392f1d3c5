"""GPTAQ: GPTQ whose target is the full-precision layer on full-precision inputs."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from quantbench.methods.rounding.base import Rounded
from quantbench.methods.rounding.feedback import Problem
from quantbench.methods.rounding.gptq import GPTQ

if TYPE_CHECKING:
    from quantbench.methods.variant import Variant


@dataclass
class GPTAQ(GPTQ):
    """GPTAQ (Li et al., arXiv 2504.02692): asymmetric calibration, defaults of the authors' code.

    GPTQ asks for W^ X^ = W X^, with X^ [in, tokens] what the quantized layers before produce; here the target is W X,
    with X the same tokens in full precision. Column i, with weights w_i when its turn comes, leaves the residual
    w_i (X_i - X^_i); the columns behind it make up for it: they move by alpha w_i (X_i - X^_i) X^^T (X^ X^^T)^-1, the
    last two restricted to those columns. The authors' code differs across blocks of columns, where it puts the rounded
    weight in the place of w_i; ours does not depend on block_size.

    alpha: the share of the residual made up for; 0 is GPTQ. The authors always calibrate a layer on quantized earlier
    layers of its block (true_sequential).
    """

    true_sequential: bool = True
    alpha: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"rounding.alpha={self.alpha}: allowed are fractions from 0 to 1")

    def check(self, variant: "Variant") -> None:
        if variant.statistics != "propagate":
            raise ValueError(f"rounding=gptaq with stats={variant.statistics}: allowed only with stats=propagate")

    @property
    def needs_pairs(self) -> bool:
        return True

    def correction(self, problem: Problem, factor: Tensor) -> Tensor | None:
        if problem.stats.drift is None:
            return None
        drift = problem.permuted(problem.stats.drift / problem.stats.count)
        # (X^ X^^T)^-1 of the columns behind i is U_{>i}^T U_{>i} with U the factor: all rows in two products
        return self.alpha * (drift @ factor.T).triu(1) @ factor

    def solve(self, problem: Problem) -> Rounded:
        rounded = super().solve(problem)
        if problem.stats.drift is not None:
            return rounded
        return Rounded(rounded.weight, ("tokens reach it by routing and have no pair: rounded by GPTQ", *rounded.notes))
