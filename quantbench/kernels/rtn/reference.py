"""Round to nearest in torch."""

import torch
from torch import Tensor

from quantbench.formats import GroupParams, IntFormat
from quantbench.kernels.layout import DeviceWeight, pack_words


def quantize(weight: Tensor, format: IntFormat) -> tuple[Tensor, GroupParams]:
    """Codes uint8 [n, k] and parameters [n, groups]; groups of equal size at once, then a ragged one."""
    rows, columns = weight.shape
    size = min(format.group_size or columns, columns)
    even = columns - columns % size
    parts = [_quantize(weight[:, :even].reshape(rows, -1, size), format)]
    if even < columns:
        parts.append(_quantize(weight[:, None, even:], format))
    codes, params = zip(*parts, strict=True)
    return torch.cat(codes, 1), GroupParams.concatenated(list(params))


def _quantize(groups: Tensor, format: IntFormat) -> tuple[Tensor, GroupParams]:
    """groups [n, count, size] -> codes [n, count * size], parameters [n, count]."""
    low, high = groups.amin(2, keepdim=True), groups.amax(2, keepdim=True)  # faster than aminmax on a processor
    params = format.params(low.clamp(max=0), high.clamp(min=0))
    return format.encode(groups, params).to(torch.uint8).flatten(1), params.map(lambda t: t[..., 0])


def quantize_packed(weight: Tensor, format: IntFormat) -> DeviceWeight:
    """The same as words."""
    codes, params = quantize(weight, format)
    return DeviceWeight(
        shape=(weight.shape[0], weight.shape[1]),
        bits=format.bits,
        group_size=format.group_size or weight.shape[1],
        planes=pack_words(codes, format.bits),
        scale=params.scale.T.contiguous().to(format.storage_dtype),
        zero=float(2 ** (format.bits - 1)) if format.symmetric else params.zero_point.T.contiguous().to(torch.uint8),
    )
