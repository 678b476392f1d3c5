"""KIVI: keys by channel, values by token."""

from dataclasses import dataclass

import torch
from torch import Tensor

from quantbench.methods.kv_cache.base import QuantizedKVCache


@dataclass
class KIVI(QuantizedKVCache):
    """KIVI (arXiv 2402.02750, algorithm 1): channels of keys have outliers, channels of values have none.

    Each channel of the keys is quantized over groups of ``group_size`` tokens, as soon as there are ``residual_length``
    new ones; values are quantized token by token, in groups of ``group_size`` channels, when there are so many newer
    ones. The authors' code reads the cache before it writes what the token completes; here it is written first.
    """

    bits: int = 2
    real_zero_point: bool = True
    group_size: int | None = 32
    residual_length: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group_size is None or self.residual_length < 1 or self.residual_length % self.group_size:
            raise ValueError(
                f"kv_cache.residual_length={self.residual_length}: allowed for KIVI are multiples of "
                f"kv_cache.group_size={self.group_size}, tokens that share a scale"
            )

    @property
    def groups_tokens(self) -> bool:
        return True

    def keys(self, keys: Tensor) -> Tensor:
        complete = keys.shape[-2] // self.residual_length * self.residual_length
        if not complete:
            return keys
        stored = self.by_channel(keys[..., :complete, :])
        return torch.cat([stored, keys[..., complete:, :]], -2)

    def stored_keys(self, length: Tensor) -> Tensor:
        return length // self.residual_length * self.residual_length

    def bits_per_element(self, tokens: int, width: int, *, full: int) -> float:
        keys = int(self.stored_keys(torch.tensor(tokens))) / tokens
        values = int(self.stored_values(torch.tensor(tokens))) / tokens
        stored = keys * self._row_bits(self.residual_length) + values * self._row_bits(width)
        return (stored + (2 - keys - values) * full) / 2
