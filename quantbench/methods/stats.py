"""What calibration saw at one input site."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from quantbench.methods.curvature import Curvature

_GRAM_STRIP = 192  # rows of X^T X computed at a time, from the diagonal on: little more than half of the products
_CACHED_TOKENS = 256

T = TypeVar("T")


@dataclass
class SiteStats:
    """Sufficient statistics of the inputs X [tokens, in] of one site; q, k and v share a site.

    gram: sum of x x^T, fp32 [in, in]; absmax: max |x| [in]; abs_sum: sum of |x| [in]; count: tokens seen; dropped:
    tokens left out because they were not finite; fisher: mean squared gradient of the loss for each weight that reads
    the site [rows, in], where a method asked for it; drift: sum of (x' - x) x^T [in, in], with x' the input of the same
    token in full precision, where a method asked for it; known: what was computed from them for one variant and holds
    for others that look at the same statistics, None where there are no others. No X is kept.
    """

    gram: Tensor
    absmax: Tensor
    abs_sum: Tensor
    count: int = 0
    dropped: int = 0
    fisher: Tensor | None = None
    drift: Tensor | None = None
    known: dict[Hashable, Any] | None = None

    @classmethod
    def empty(cls, columns: int, *, device: torch.device | str = "cpu") -> "SiteStats":
        """No tokens seen yet."""
        zeros = torch.zeros(columns, device=device)
        return cls(torch.zeros(columns, columns, device=device), zeros, zeros.clone())

    def update(self, inputs: Tensor, full: Tensor | None = None) -> None:
        """Add ``inputs`` [..., in]. Tokens with NaN or Inf are left out and counted.

        full: the inputs of the same tokens in full precision, of the same shape, to learn ``drift`` from.
        """
        self.add(inputs, full)
        self.complete()

    def add(self, inputs: Tensor, full: Tensor | None = None) -> None:
        """:meth:`update` without the lower triangle of the Gram matrix, which :meth:`complete` fills in at the end."""
        x = inputs.detach().reshape(-1, inputs.shape[-1]).float()
        away = None if full is None else full.detach().reshape(x.shape).float() - x
        if not len(x):
            return
        total, largest = _magnitudes(x)
        seen = total if away is None else total + away.sum(0)
        if not bool(torch.isfinite(seen).all()):  # the sums tell; only then look at every element
            finite = torch.isfinite(x if away is None else away).all(-1)  # a difference is finite where both are
            self.dropped += int((~finite).sum())
            x, away = x[finite], None if away is None else away[finite]
            if not len(x):
                return
            total, largest = _magnitudes(x)
        if away is not None:
            self.drift = away.T @ x if self.drift is None else self.drift.addmm_(away.T, x)
        for start in range(0, x.shape[1], _GRAM_STRIP):
            strip = slice(start, start + _GRAM_STRIP)
            self.gram[strip, start:].addmm_(x[:, strip].T, x[:, start:])
        self.absmax = torch.maximum(self.absmax, largest)
        self.abs_sum += total
        self.count += len(x)

    def complete(self) -> None:
        """Mirror the upper triangle of the Gram matrix into the lower one."""
        self.gram.copy_(self.gram.triu().add_(self.gram.triu(1).T))

    @classmethod
    def merged(cls, parts: Sequence["SiteStats"]) -> "SiteStats":
        """The statistics of all parts' tokens together."""
        if len(parts) == 1:
            return parts[0]
        drifts = [p.drift for p in parts if p.drift is not None]
        return cls(
            torch.stack([p.gram for p in parts]).sum(0),
            torch.stack([p.absmax for p in parts]).amax(0),
            torch.stack([p.abs_sum for p in parts]).sum(0),
            sum(p.count for p in parts),
            sum(p.dropped for p in parts),
            drift=torch.stack(drifts).sum(0) if len(drifts) == len(parts) else None,
        )

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """``compute()``, or what an earlier variant with the same ``key`` was given; nobody may change it."""
        if self.known is None:
            return compute()
        if key not in self.known:
            self.known[key] = compute()
        found: T = self.known[key]
        return found

    def output_error(self, delta: Tensor) -> float:
        """Mean over tokens of ||delta x||^2 for a weight change ``delta`` [out, in]: tr(delta H delta^T), exactly."""
        return float(((delta @ self.hessian) * delta).sum())

    def of_rows(self, rows: slice) -> "SiteStats":
        """The same inputs, seen from some rows of the weights that read them."""
        return self if self.fisher is None else replace(self, fisher=self.fisher[rows])

    @property
    def curvature(self) -> Curvature:
        """What an error in the weights that read the site costs."""
        return Curvature(self.hessian, self.fisher)

    @property
    def hessian(self) -> Tensor:
        """Mean of x x^T, fp32 [in, in]: half the Hessian of the layer's mean squared output error (GPTQ, eq. 1)."""
        return self.gram / max(self.count, 1)

    @property
    def mean_abs(self) -> Tensor:
        """Mean |x| per channel [in] (AWQ's activation magnitude)."""
        return self.abs_sum / max(self.count, 1)

    def scaled(self, scale: Tensor) -> "SiteStats":
        """The statistics of x / scale [in], exactly: D^-1 H D^-1. No second pass over the data."""
        inverse = 1 / scale
        return SiteStats(
            self.gram * inverse[:, None] * inverse[None, :],
            self.absmax * inverse,
            self.abs_sum * inverse,
            self.count,
            self.dropped,
            None if self.fisher is None else self.fisher * inverse.square(),
            None if self.drift is None else self.drift * inverse[:, None] * inverse[None, :],
        )


def finite_tokens(inputs: Tensor) -> Tensor:
    """Inputs [..., in] as fp32 [tokens, in], without those that hold NaN or Inf."""
    x = inputs.detach().reshape(-1, inputs.shape[-1]).float()
    if bool(torch.isfinite(x.sum())):  # the sum tells; only then look at every element
        return x
    return x[torch.isfinite(x).all(-1)]


def _magnitudes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Sum and maximum of |x| over the tokens of x [tokens, in], in pieces that stay in a core's cache."""
    pieces = [(magnitude.sum(0), magnitude.amax(0)) for magnitude in map(torch.abs, x.split(_CACHED_TOKENS))]
    sums, maxima = zip(*pieces, strict=True)
    return torch.stack(sums).sum(0), torch.stack(maxima).amax(0)
