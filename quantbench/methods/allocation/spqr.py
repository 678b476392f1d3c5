"""SpQR's outliers: weights that the other weights of their group are better off without."""

from dataclasses import dataclass

import torch
from torch import Tensor

from quantbench.formats import Format
from quantbench.methods.allocation.base import Allocation, Kept
from quantbench.methods.curvature import Curvature
from quantbench.methods.grid import Grid
from quantbench.methods.range.base import weight_range
from quantbench.methods.rounding.base import NO_TOKENS, without_kept
from quantbench.methods.rounding.factor import inverse_factor
from quantbench.methods.stats import SiteStats


@dataclass
class SpQR(Allocation):
    """Outliers of SpQR (Dettmers et al., arXiv 2306.03078, sec. 4.1; the authors' code with its defaults).

    The error of a weight of column j counts (w - q)^2 / U_jj^2, U the Cholesky factor of the damped inverse Hessian.
    Weights whose absence (from range and sum) lowers the error of their group by more than a bound are set aside while
    the group's parameters are fitted; those whose own error on these parameters exceeds the bound stay in 16 bits. The
    bound is ``threshold`` times the mean over columns of var(w) / U_jj^2: a fraction of what it would cost to replace
    every column by its mean. simplified: no leave-one-out step. damp_percent: of the Hessian. act_order: U and groups
    in order of falling diag H, as GPTQ with ``act_order`` (and without static groups) meets them.

    The authors decide about a column when the loop over columns reaches it, on weights that carry the errors of
    earlier columns; here the mask is chosen beforehand, on the original weights, so that it serves every rounding and
    format. The leave-one-out step always uses the format's min-max range, as theirs. A matrix that no calibration
    token reached keeps nothing.
    """

    threshold: float = 0.2
    damp_percent: float = 1.0
    act_order: bool = True
    simplified: bool = False

    def __post_init__(self) -> None:
        if not self.threshold > 0:
            raise ValueError(f"allocation.threshold={self.threshold}: allowed are values above 0")
        if not 0 < self.damp_percent <= 1:
            raise ValueError(f"allocation.damp_percent={self.damp_percent}: allowed are fractions above 0 and up to 1")

    @property
    def needs_calibration(self) -> bool:
        return True

    def keep(self, weight: Tensor, grid: Grid, stats: SiteStats | None) -> Kept:
        if stats is None or not stats.count:
            return Kept(None, (f"{NO_TOKENS}: no outliers chosen",))
        hessian = stats.hessian
        order = torch.arange(len(hessian), device=hessian.device)
        if self.act_order:
            order = torch.argsort(hessian.diagonal(), descending=True, stable=True)
        mask = self._outliers(weight[:, order], grid, stats.curvature.columns(order))
        return Kept(mask[:, torch.argsort(order)])

    def _outliers(self, weight: Tensor, grid: Grid, curvature: Curvature) -> Tensor:
        """The mask [out, in] in the order of the loop."""
        hessian = curvature.hessian.clone()
        dead = hessian.diagonal() == 0
        hessian.diagonal()[dead] = 1
        factor, _ = inverse_factor(hessian, self.damp_percent)
        cost = factor.diagonal().square().reciprocal()
        bound = self.threshold * (weight.var(0) * cost).mean()
        likely = None
        if not self.simplified:
            groups = grid.format.group_slices(weight.shape[1])
            likely = torch.cat([leave_one_out(weight[:, g], cost[g], grid.format) > bound for g in groups], 1)
        settled = grid.fit_groups(without_kept(weight, likely), curvature)
        error = weight - grid.encode(weight, settled).dequantize()
        return (error.square() * cost > bound).masked_fill_(dead, False)


def leave_one_out(weight: Tensor, cost: Tensor, format: Format) -> Tensor:
    """How much the error of a group falls when one weight is left out: weight [rows, g], cost [g] -> [rows, g].

    A weight inside the group's range takes its own error with it and changes nothing else, so only the least and the
    greatest weight of a row call for a new range.
    """
    saved = _errors(weight, cost, format)
    whole = saved.sum(1, keepdim=True)
    for extreme in (weight.argmin(1, keepdim=True), weight.argmax(1, keepdim=True)):
        others = _errors(weight.scatter(1, extreme, 0), cost, format).scatter_(1, extreme, 0)
        saved.scatter_(1, extreme, whole - others.sum(1, keepdim=True))
    return saved


def _errors(weight: Tensor, cost: Tensor, format: Format) -> Tensor:
    params = format.params(*weight_range(weight))
    return (format.decode(format.encode(weight, params), params) - weight).square() * cost
