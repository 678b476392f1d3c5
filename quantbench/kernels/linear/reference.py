"""Multiplication with a packed matrix in torch."""

from dataclasses import replace

import torch
from torch import Tensor

from quantbench.kernels.layout import DeviceWeight, unpack_words

_CHUNK = 2**17  # weights decoded at a time: they stay in a core's cache until they are multiplied
_LEAST_ROWS = 16


def packed_linear(x: Tensor, weight: DeviceWeight) -> Tensor:
    """x [m, k] times W^T [k, n], a few rows of W at a time."""
    rows, columns = weight.shape
    result = torch.empty((len(x), rows), dtype=x.dtype, device=x.device)
    size = max(_LEAST_ROWS, _CHUNK // columns)
    for start in range(0, rows, size):
        part = slice(start, min(start + size, rows))
        torch.mm(x, dequantize(_of_rows(weight, part), x.dtype), out=result[:, part])
    return result


def dequantize(weight: DeviceWeight, dtype: torch.dtype) -> Tensor:
    """W transposed, [k, n]: groups of equal size at once, then a ragged one."""
    rows, columns = weight.shape
    codes = unpack_words(weight.planes, weight.bits, columns)
    size = min(weight.group_size, columns)
    groups, even = columns // size, columns - columns % size
    parts = [_decoded(codes[:even].view(groups, size, rows), weight, slice(0, groups))]
    if even < columns:
        parts.append(_decoded(codes[None, even:], weight, slice(groups, None)))
    decoded = [part.flatten(0, 1).to(dtype) for part in parts]
    return decoded[0] if len(decoded) == 1 else torch.cat(decoded)


def _decoded(codes: Tensor, weight: DeviceWeight, groups: slice) -> Tensor:
    """codes [groups, size, n] -> values in fp32."""
    scale = weight.scale[groups, None].float()
    if weight.table is not None and weight.own_tables:
        return weight.table[groups].float().transpose(1, 2).gather(1, codes.long()).mul_(scale)
    if weight.table is not None:
        return weight.table[codes].mul_(scale)
    zero = weight.zero[groups, None].float() if isinstance(weight.zero, Tensor) else weight.zero
    return (codes * scale).sub_(zero) if weight.minimum else (codes - zero).mul_(scale)


def _of_rows(weight: DeviceWeight, rows: slice) -> DeviceWeight:
    """Some rows of W."""
    return replace(
        weight,
        shape=(rows.stop - rows.start, weight.shape[1]),
        planes=tuple(plane[:, rows] for plane in weight.planes),
        scale=weight.scale[:, rows],
        zero=weight.zero[:, rows] if isinstance(weight.zero, Tensor) else weight.zero,
        table=weight.table[:, rows] if weight.table is not None and weight.own_tables else weight.table,
    )
