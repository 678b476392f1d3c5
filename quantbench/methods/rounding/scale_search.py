"""The scale searches of ggml's quantizers, for many groups at once.

Every function works along the last dimension of ``x`` [..., n] with non-negative ``weight`` of the same shape (an error
costs weight * error^2) and returns one scale [..., 1] a group. A scale is proposed by moving the code of the group's
extreme weight off the end of the code range by tenths of a step, and refitted by weighted least squares.
"""

from typing import NamedTuple

import torch
from torch import Tensor

_NOTHING = 1e-15  # a group whose largest weight is below this counts as zero, as in ggml
_PASSES = 5


class AffineSearch(NamedTuple):
    """first, step, steps: moves of the extreme code, in steps; absolute: score |error| instead of its square."""

    first: float
    step: float
    steps: int
    absolute: bool = False


def signed_scale(x: Tensor, weight: Tensor, below: int) -> tuple[Tensor, Tensor]:
    """Scale and codes -below .. below - 1; the scale's sign gives the weight of largest magnitude code -below."""
    extreme = _extreme(x)
    wx = weight * x
    best, scale = torch.zeros_like(extreme), torch.zeros_like(extreme)
    inverse = -below / extreme
    for move in (0, *range(-9, 0), *range(1, 10)):
        trial = -(below + 0.1 * move) / extreme
        codes = (trial * x).round_().clamp_(-below, below - 1)
        along, square = (wx * codes).sum(-1, keepdim=True), (weight * codes).mul_(codes).sum(-1, keepdim=True)
        better = (square > 0) & (along.square() > best * square)  # the error is sum w x^2 - along^2 / square
        refitted = along / square
        scale = torch.where(better, refitted, scale)
        best = torch.where(better, refitted * along, best)
        inverse = torch.where(better, trial, inverse)
    return scale, (inverse * x).round_().clamp_(-below, below - 1)


def descended_signed_scale(x: Tensor, weight: Tensor, below: int) -> Tensor:
    """As :func:`signed_scale`, but from the full range on, code by code."""
    codes = (-below / _extreme(x) * x).round_().clamp_(-below, below - 1)
    return _descend(x, weight, codes, -below, below - 1)[0]


def positive_scale(x: Tensor, weight: Tensor, highest: int) -> tuple[Tensor, Tensor]:
    """Scale and codes 0 .. highest for x >= 0 (the scales and minima of a block)."""
    largest = x.amax(-1, keepdim=True)
    largest = largest.masked_fill(largest < _NOTHING, torch.inf)
    inverse = highest / largest
    best = torch.full_like(largest, torch.inf)
    for move in (0, *range(-4, 0), *range(1, 5)):
        trial = (highest + 0.1 * move) / largest
        delta = x - (trial * x).round_().clamp_(max=highest) / trial
        error = (weight * delta.square()).sum(-1, keepdim=True)
        better = error < best
        best, inverse = torch.where(better, error, best), torch.where(better, trial, inverse)
    return _descend(x, weight, (inverse * x).round_().clamp_(max=highest), 0, highest)


def affine_scale(x: Tensor, weight: Tensor, highest: int, search: AffineSearch) -> tuple[Tensor, Tensor]:
    """Scale and minimum (>= 0, to be subtracted) for codes 0 .. highest."""
    low, high = x.amin(-1, keepdim=True).clamp_(max=0), x.amax(-1, keepdim=True)
    flat = high <= low
    scale = (high - low).masked_fill(flat, 0) / highest
    total, mean = weight.sum(-1, keepdim=True), (weight * x).sum(-1, keepdim=True)
    best = None
    for move in range(-1, search.steps + 1):
        reach = highest if move < 0 else highest + search.first + search.step * move
        codes = ((x - low) * (reach / (high - low).masked_fill(flat, torch.inf))).round_().clamp_(0, highest)
        if best is None:
            best = _cost(codes * scale + low - x, weight, search.absolute)
            continue
        wc = weight * codes
        first, square = wc.sum(-1, keepdim=True), (wc * codes).sum(-1, keepdim=True)
        cross = wc.mul_(x).sum(-1, keepdim=True)
        determinant = total * square - first.square()
        fitted = (total * cross - mean * first) / determinant
        offset = (square * mean - first * cross) / determinant
        fitted = torch.where(offset > 0, cross / square, fitted)  # a minimum above zero cannot be stored
        offset = offset.clamp(max=0)
        cost = _cost(codes.mul_(fitted).add_(offset).sub_(x), weight, search.absolute)
        better = (determinant > 0) & (cost < best)
        best = torch.where(better, cost, best)
        scale, low = torch.where(better, fitted, scale), torch.where(better, offset, low)
        flat = high <= low
    return scale, -low


def _cost(delta: Tensor, weight: Tensor, absolute: bool) -> Tensor:
    return (delta.abs_() if absolute else delta.square_()).mul_(weight).sum(-1, keepdim=True)


def _extreme(x: Tensor) -> Tensor:
    """The entry of largest magnitude [..., 1]; infinity where there is nothing, so that all codes become zero."""
    extreme = x.gather(-1, x.abs().argmax(-1, keepdim=True))
    return extreme.masked_fill(extreme.abs() < _NOTHING, torch.inf)


def _descend(x: Tensor, weight: Tensor, codes: Tensor, lowest: int, highest: int) -> tuple[Tensor, Tensor]:
    """Least-squares scale and codes after changing one code at a time as long as along^2 / square grows."""
    xs, ws, cs = (t.movedim(-1, 0).contiguous() for t in (x, weight, codes))
    along, square = (ws * xs * cs).sum(0), (ws * cs * cs).sum(0)
    for _ in range(_PASSES):
        changed = False
        for value, cost, code in zip(xs, ws, cs, strict=True):  # rows of cs: changed in place
            rest, rest_square = along - cost * value * code, square - cost * code * code
            usable = (rest > 0) & (rest_square > 0)
            new = torch.where(usable, value * rest_square / rest, code).round_().clamp_(lowest, highest)
            new_along, new_square = rest + cost * value * new, rest_square + cost * new * new
            better = usable & (new != code) & (new_along.square() * square > along.square() * new_square)
            along, square = torch.where(better, new_along, along), torch.where(better, new_square, square)
            code.copy_(torch.where(better, new, code))
            changed = changed or bool(better.any())
        if not changed:
            break
    scale = torch.where(square > 0, along / square, 0.0)
    return scale[..., None], cs.movedim(0, -1)
