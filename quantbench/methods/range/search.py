"""What range searches share: working through many rows in pieces, and keeping the better of two fits."""

from collections.abc import Callable

import torch
from torch import Tensor

from quantbench.formats import GroupParams

_CHUNK_ELEMENTS = 2**17  # half a megabyte of fp32: a search's temporaries stay in the cache


def row_chunks(weight: Tensor) -> list[slice]:
    """The rows of a matrix, a few at a time: rows are independent, so only memory and speed depend on the size."""
    size = max(1, _CHUNK_ELEMENTS // max(1, weight.shape[1]))
    return [slice(start, start + size) for start in range(0, len(weight), size)]


def fit_in_chunks(weight: Tensor, fit: Callable[[slice], GroupParams]) -> GroupParams:
    """``fit`` of a few rows at a time, put together."""
    parts = [fit(rows) for rows in row_chunks(weight)]
    codebooks = [part.codebook for part in parts if part.codebook is not None]
    return GroupParams(
        torch.cat([part.scale for part in parts]),
        torch.cat([part.zero_point for part in parts]),
        torch.cat(codebooks) if codebooks else None,
    )


def better_of(better: Tensor, new: GroupParams, old: GroupParams) -> GroupParams:
    """Row by row: ``new`` where ``better`` (bool [rows, 1]) is true, otherwise ``old``."""
    codebook = new.codebook
    if codebook is not None and old.codebook is not None:
        codebook = torch.where(better[..., None], codebook, old.codebook)
    return GroupParams(
        torch.where(better, new.scale, old.scale), torch.where(better, new.zero_point, old.zero_point), codebook
    )
