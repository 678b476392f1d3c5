"""Which weights matter: scores by which an allocation chooses those to keep in 16 bits."""

import random

import torch
from torch import Tensor

from quantbench.methods.grid import Grid
from quantbench.methods.rounding.factor import inverse_factor
from quantbench.methods.stats import SiteStats

CRITERIA = ("magnitude", "activation", "channel", "hessian", "fisher", "random")
CALIBRATED = ("activation", "channel", "hessian", "fisher")
SCOPES = ("matrix", "row")

_DAMP_PERCENT = 0.01  # GPTQ's


def score(criterion: str, weight: Tensor, grid: Grid, stats: SiteStats | None, *, seed: int = 0) -> Tensor:
    """The importance of each weight [out, in] of a matrix; of each input channel [1, in] for ``channel``.

    magnitude: |w|. activation: |w| ||x||_2 (Wanda, arXiv 2306.11695, eq. 1). channel: mean |x| of the weight's input
    channel (AWQ, arXiv 2306.00978, table 1). hessian: (w - q)^2 / [H^-1]_jj, what rounding w to its nearest value q
    costs when all other weights of the row make up for it (SpQR, arXiv 2306.03078, eq. 2; Optimal Brain Surgeon).
    fisher: the mean squared gradient of the loss (SqueezeLLM, arXiv 2306.07629, sec. 4.2). random: uniform; a matrix's
    first weights take part in its seed, so that matrices of one shape draw independently.

    Raises:
        ValueError: the statistics that the criterion needs are not there.
    """
    if criterion == "magnitude":
        return weight.abs()
    if criterion == "random":
        state = random.Random(f"{seed} {weight[0, :8].tolist()}").getrandbits(63)
        generator = torch.Generator().manual_seed(state)
        return torch.rand(weight.shape, generator=generator).to(weight.device)
    assert stats is not None, "the caller falls back where there are no statistics"
    if criterion == "activation":
        return weight.abs() * stats.hessian.diagonal().sqrt()
    if criterion == "channel":
        return stats.mean_abs[None]
    if criterion == "fisher":
        if stats.fisher is None:
            raise ValueError("criterion=fisher: no squared gradients were collected for this matrix")
        return stats.fisher
    return _rounding_cost(weight, grid, stats)


def _rounding_cost(weight: Tensor, grid: Grid, stats: SiteStats) -> Tensor:
    """(w - q)^2 / [H^-1]_jj; a channel that was never active costs nothing."""
    hessian = stats.hessian
    dead = hessian.diagonal() == 0
    hessian.diagonal()[dead] = 1
    factor, _ = inverse_factor(hessian, _DAMP_PERCENT)
    error = weight - grid.nearest(weight, stats.curvature).dequantize()
    return (error.square() / factor.square().sum(0)).masked_fill(dead, 0)  # H^-1 = U^T U


def top(scores: Tensor, fraction: float, scope: str) -> Tensor:
    """Bool mask of the greatest ``fraction`` (rounded to a whole number of entries) of a matrix or of each row."""
    ranked = scores.reshape(1, -1) if scope == "matrix" else scores
    count = round(fraction * ranked.shape[1])
    index = ranked.topk(count, dim=1).indices
    return torch.zeros_like(ranked, dtype=torch.bool).scatter_(1, index, True).view(scores.shape)
