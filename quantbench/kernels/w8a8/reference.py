"""Quantizing tokens, and what is made of a product of integers, in torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from quantbench.formats import FP8, GroupParams, IntFormat
from quantbench.formats.scaled import inverse

if TYPE_CHECKING:
    from quantbench.kernels.w8a8 import ByteWeight


def quantize_tokens(
    x: Tensor, format: IntFormat | FP8, params: GroupParams | None, clip: float, width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Codes [m, width], scale, zero-point and sum of codes [m]."""
    x = x.float()
    if params is None:
        low, high = x.amin(1), x.amax(1)  # nine times faster than aminmax on a processor
        params = format.params(low.clamp(max=0) * clip, high.clamp(min=0) * clip)
    none, each = torch.zeros(len(x), dtype=torch.int32, device=x.device), params.map(lambda t: t[:, None])
    if isinstance(format, FP8):
        top = torch.finfo(torch.float8_e4m3fn).max
        codes = (x * inverse(each.scale)).clamp_(-top, top).to(torch.float8_e4m3fn)
        return _widened(codes, width), params.scale, none, none
    half = 2 ** (format.bits - 1)
    codes = format.encode(x, each).sub_(half).to(torch.int8)
    return _widened(codes, width), params.scale, (params.zero_point - half).int(), codes.sum(1, dtype=torch.int32)


def _widened(codes: Tensor, width: int) -> Tensor:
    more = width - codes.shape[1]
    return torch.nn.functional.pad(codes.view(torch.uint8), (0, more)).view(codes.dtype) if more else codes


def rescaled(
    product: Tensor, scale: Tensor, zero: Tensor, sums: Tensor, weight: ByteWeight, dtype: torch.dtype
) -> Tensor:
    """[m, n] in ``dtype`` from the product of codes, int32 [m, at least n]:
    sum (x - zx)(w - zw) = sum x w - zx sum w - zw sum x + k zx zw."""
    n, k = weight.shape
    moved = product[:, :n]
    if bool(zero.any()):
        moved = moved - zero[:, None] * weight.sums
    if weight.offset:
        moved = moved - (sums - k * zero)[:, None] * weight.zero
    return (moved.float() * scale[:, None]).mul_(weight.scale).to(dtype)
