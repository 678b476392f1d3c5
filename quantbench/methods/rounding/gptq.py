"""GPTQ: column by column, the error of each is spread over the columns that are still to come."""

from dataclasses import dataclass

from torch import Tensor

from quantbench.methods.grid import Grid
from quantbench.methods.rounding.base import Rounded
from quantbench.methods.rounding.columns import ColumnLoop
from quantbench.methods.rounding.factor import inverse_factor
from quantbench.methods.rounding.feedback import ErrorFeedback, Problem


@dataclass
class GPTQ(ErrorFeedback):
    """GPTQ (Frantar et al., arXiv 2210.17323), defaults of the authors' code.

    static_groups: fit all groups before the first column moves, so that act_order needs no group index; formats that
    store the parameters of several groups together are always fitted so. Otherwise a group's scale is fitted when its
    first column is reached, from weights that carry all earlier errors (the authors' code fits groups smaller than a
    block on weights that lack those of their own block).
    """

    static_groups: bool = False

    def fits_first(self, grid: Grid) -> bool:
        return self.static_groups or grid.static

    def correction(self, problem: Problem, factor: Tensor) -> Tensor | None:
        """What each column adds to later ones beside its error [in, in], strictly upper triangular; None: nothing."""
        return None

    def solve(self, problem: Problem) -> Rounded:
        factor, damp = problem.stats.once(
            ("inverse factor", self.damp_percent, self.act_order),
            lambda: inverse_factor(problem.hessian, self.damp_percent),
        )
        loop = ColumnLoop(
            problem.weight,
            problem.grid,
            problem.curvature,
            factor,
            order=problem.order,
            static=problem.static,
            keep=problem.keep,
            correction=self.correction(problem, factor),
        )
        return Rounded(loop.run(self.block_size), self.damping_notes(damp))
