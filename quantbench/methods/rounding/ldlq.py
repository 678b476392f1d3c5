"""LDLQ: adaptive rounding with linear feedback from the LDL decomposition of the Hessian."""

from dataclasses import dataclass

import torch
from torch import Tensor

from quantbench.formats import QuantizedWeight
from quantbench.kernels.gptq import quantize_column
from quantbench.methods.grid import Grid
from quantbench.methods.rounding.base import Rounded
from quantbench.methods.rounding.columns import ColumnLoop
from quantbench.methods.rounding.factor import upper_factor
from quantbench.methods.rounding.feedback import ErrorFeedback, Problem


@dataclass
class LDLQ(ErrorFeedback):
    """LDLQ (Chee et al., arXiv 2307.13304), the optimum among roundings with linear feedback on a fixed grid.

    With H = (U + I) D (U + I)^T, U strictly upper triangular, column k becomes Q(W_k + (W - W^)_{<k} U_{<k,k}), Q
    rounding to nearest (sec. 3). On the same grid this is GPTQ, as they prove; it is reached from the decomposition of
    H instead of that of its inverse. All groups are fitted first. Columns go from the first to the last, as in the
    paper; the authors' code goes from the last to the first, with act_order (their ``ldlqRG``) in order of falling
    diag H.

    greedy_passes: sweeps of coordinate descent afterwards, each of which moves every column to its best place given all
    others (the authors' ``npasses``).
    """

    greedy_passes: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.greedy_passes < 0:
            raise ValueError(f"rounding.greedy_passes={self.greedy_passes}: allowed are 0 and positive integers")

    def fits_first(self, grid: Grid) -> bool:
        return True

    def solve(self, problem: Problem) -> Rounded:
        hessian = problem.hessian
        upper, damp = problem.stats.once(
            ("factor", self.damp_percent, self.act_order),
            lambda: upper_factor(hessian, self.damp_percent),  # H = R R^T with R = (U + I) D^1/2
        )
        loop = FeedbackLoop(problem, (upper / upper.diagonal()).fill_diagonal_(0))
        quantized = loop.run(self.block_size)
        for _ in range(self.greedy_passes):
            # d tr(E H E^T) / d E_k = 0, with E = W - W^: the best W^_k is W_k + sum_{j != k} E_j H_jk / H_kk
            loop.factor = (hessian / hessian.diagonal()).fill_diagonal_(0)
            quantized = loop.run(self.block_size)
        return Rounded(quantized, self.damping_notes(damp))


class FeedbackLoop(ColumnLoop):
    """Quantizes column k at W_k + sum_j E_j F_jk, where E = W - W^ are the errors as they stand.

    F [in, in] has a zero diagonal; E starts at zero, so that a strictly upper F looks at earlier columns alone.
    """

    def __init__(self, problem: Problem, feedback: Tensor) -> None:
        """feedback: F, in the order in which columns are rounded."""
        super().__init__(
            problem.weight,
            problem.grid,
            problem.curvature,
            feedback,
            order=problem.order,
            static=problem.static,
            keep=problem.keep,
        )
        self.original = self.columns.clone()
        self.errors = torch.zeros_like(self.columns)

    def run(self, block_size: int) -> QuantizedWeight:
        """One sweep over all columns; what earlier sweeps left is where it starts."""
        for block in self._blocks(block_size):
            targets = torch.addmm(self.original[block], self.factor[:, block].T, self.errors)
            change = torch.zeros_like(targets)  # of the block's own errors, which ``targets`` does not know of
            for i in range(block.start, block.stop):
                done = i - block.start
                self.columns[i] = targets[done].addmv(change[:done].T, self.factor[block.start : i, i])
                error = self.original[i] - self._quantize(i)
                change[done] = error - self.errors[i]
                self.errors[i] = error
        return self._result()

    def _quantize(self, i: int) -> Tensor:
        """Store the codes of column i as it is now, and return the values [out] that they stand for."""
        params = self.params.map(lambda t: t[self.group_of[i]])
        keep = None if self.keep is None else self.keep[i]
        self.codes[i], value = quantize_column(self.columns[i], params, self.grid.format, keep)
        return value
