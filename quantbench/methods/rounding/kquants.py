"""k-quants: ggml's own quantizer for each of its types, with and without an importance matrix."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from quantbench.formats import GroupParams, Outliers, QuantizedWeight, Settled
from quantbench.formats.gguf import Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, Q8_0, TQ1_0, TQ2_0, GGUFFormat, SuperBlock
from quantbench.methods.grid import Grid
from quantbench.methods.range.minmax import MinMax
from quantbench.methods.rounding.base import NO_TOKENS, Rounded, Rounding, without_kept
from quantbench.methods.rounding.scale_search import (
    AffineSearch,
    affine_scale,
    descended_signed_scale,
    positive_scale,
    signed_scale,
)
from quantbench.methods.stats import SiteStats

if TYPE_CHECKING:
    from quantbench.methods.variant import Variant

_CHUNK = 2**17  # weights searched at once: what the searches touch stays in the cache
_PLAIN_SEARCH = {
    Q2_K: AffineSearch(-0.5, 0.1, 15, absolute=True),
    Q4_K: AffineSearch(-1.0, 0.1, 20),
    Q5_K: AffineSearch(-0.5, 0.1, 15),
}
_IMATRIX_SEARCH = AffineSearch(-0.9, 0.05, 36)
_NO_IMATRIX = (Q8_0, TQ1_0, TQ2_0)


@dataclass
class KQuants(Rounding):
    """What llama.cpp does for the format's type (ggml's quantize functions): a search over scales, then nearest codes.

    imatrix: weigh errors by the importance matrix, the mean squared activation of each input column. Without it
    Q4_0 ... Q8_0 and the ternary types are ggml's reference (no search at all), the k-quants weigh an error by the
    weight's own magnitude. Q8_0 and the ternary types know no importance matrix.
    """

    imatrix: bool = False

    @property
    def needs_calibration(self) -> bool:
        return self.imatrix

    def check(self, variant: "Variant") -> None:
        format = type(variant.format)
        if not issubclass(format, GGUFFormat):
            raise ValueError(f"rounding=kquants: allowed with the GGUF formats (q4_0 ... tq2_0), not {format.__name__}")
        if type(variant.range) is not MinMax:
            raise ValueError("rounding=kquants searches the scales itself: allowed is range=minmax")
        if self.imatrix and format in _NO_IMATRIX:
            raise ValueError(f"rounding.imatrix=true: {format.__name__} has no use for it; allowed is false")

    def round(self, weight: Tensor, grid: Grid, stats: SiteStats | None, *, keep: Tensor | None = None) -> Rounded:
        format = grid.format
        assert isinstance(format, GGUFFormat)
        notes: tuple[str, ...] = ()
        importance = None
        if self.imatrix and type(format) not in _NO_IMATRIX:
            if stats is not None and stats.count:
                importance = stats.hessian.diagonal()
            else:
                notes = (f"{NO_TOKENS}: scales searched without the importance matrix",)
        fitted = without_kept(weight, keep)
        if importance is None and not isinstance(format, SuperBlock):
            quantized = _reference(fitted, format)
        else:
            rows = max(1, _CHUNK // weight.shape[1])
            quantized = grid.encode(fitted, _joined([_searched(x, format, importance) for x in fitted.split(rows)]))
        if keep is not None:
            quantized = replace(quantized, outliers=Outliers.of(weight, keep))
        return Rounded(quantized, notes)


def _reference(weight: Tensor, format: GGUFFormat) -> QuantizedWeight:
    """The types without a search: weight [rows, in]. Codes come from the scale before it is rounded to float16."""
    assert format.group_size is not None
    lowest, highest = format.code_range
    x = weight.unflatten(1, (-1, format.group_size))
    if format.offset is None:
        low = x.amin(-1, keepdim=True)
        scale = (x.amax(-1, keepdim=True) - low) / highest
        codes = torch.trunc((x - low) * _inverse(scale) + 0.5)
        params = GroupParams(scale.squeeze(-1), -low.squeeze(-1))
    else:
        extreme = x.gather(-1, x.abs().argmax(-1, keepdim=True))
        if lowest or highest == 2 * format.offset:  # as many codes below zero as above
            scale = extreme.abs() / (highest - format.offset)
            codes = _half_away_from_zero(x * _inverse(scale)) + format.offset
        else:
            scale = extreme / -format.offset
            codes = torch.trunc(x * _inverse(scale) + (format.offset + 0.5))
        params = GroupParams(scale.squeeze(-1), torch.full_like(scale.squeeze(-1), format.offset))
    settled = format.settle(params)
    return QuantizedWeight(
        format, codes.clamp_(lowest, highest).flatten(1).to(torch.uint8), settled.params, settled.levels
    )


def _inverse(scale: Tensor) -> Tensor:
    inverse = 1 / scale
    return inverse.masked_fill_(torch.isinf(inverse), 0)


def _half_away_from_zero(x: Tensor) -> Tensor:
    size = x.abs()
    whole = size.floor()
    return (whole + torch.floor(2 * (size - whole))) * x.sign()


def _searched(weight: Tensor, format: GGUFFormat, importance: Tensor | None) -> Settled:
    """Scales of a few rows [rows, in]; importance [in], None for none."""
    assert format.group_size is not None
    x = weight.unflatten(1, (-1, format.block // format.group_size, format.group_size))
    cost = _cost(x, format, importance)
    highest = format.code_range[1]
    if format.offset is None:
        search = _PLAIN_SEARCH[type(format)] if importance is None else _IMATRIX_SEARCH  # type: ignore[index]
        scale, minimum = (t.squeeze(-1) for t in affine_scale(x, cost, highest, search))
    elif importance is None and isinstance(format, Q3_K):
        scale = descended_signed_scale(x, cost, format.offset).squeeze(-1)
    else:
        scale = signed_scale(x, cost, format.offset)[0].squeeze(-1)
    if isinstance(format, SuperBlock) and importance is not None and not isinstance(format, Q6_K):
        # the scales are themselves rounded with the weight of their groups
        of_group, (lowest, highest) = cost.sum(-1), format.scale_codes
        if format.offset is not None:
            d, integers = signed_scale(scale, of_group, -lowest)
            return format.assemble(d.squeeze(-1), integers)
        d, integers = positive_scale(scale, of_group, highest)
        dmin, minima = positive_scale(minimum, of_group, highest)
        return format.assemble(d.squeeze(-1), integers, dmin.squeeze(-1), minima)
    scale = scale.flatten(1)
    zero = minimum.flatten(1) if format.offset is None else torch.full_like(scale, format.offset)
    return format.settle(GroupParams(scale, zero))


def _cost(x: Tensor, format: GGUFFormat, importance: Tensor | None) -> Tensor:
    """What a squared error of each weight costs: x [rows, blocks, groups, size], the same shape back."""
    if importance is None:
        if isinstance(format, Q2_K):
            return x.abs()
        if format.offset is None:
            return x.abs() + x.square().mean(-1, keepdim=True).sqrt()
        return x.square()
    columns = importance.view(x.shape[1:])
    if isinstance(format, Q6_K):
        return columns.expand(x.shape)
    square = x.square()
    if isinstance(format, SuperBlock):
        spread = square.mean((-1, -2), keepdim=True) * (1 if isinstance(format, Q2_K) else 2)
    else:
        spread = square.mean((-1, -2, -3), keepdim=True)
    return columns * (spread + square).sqrt()


def _joined(parts: list[Settled]) -> Settled:
    """Rows below each other."""
    params = GroupParams(torch.cat([p.params.scale for p in parts]), torch.cat([p.params.zero_point for p in parts]))
    levels = [p.levels for p in parts if p.levels is not None]
    return Settled(params, {name: torch.cat([level[name] for level in levels]) for name in levels[0]})
