"""Keys and values quantized token by token."""

from dataclasses import dataclass

from torch import Tensor

from quantbench.methods.kv_cache.base import QuantizedKVCache


@dataclass
class PerToken(QuantizedKVCache):
    """Every token of a head is quantized by itself, in groups of ``group_size`` channels (null: the whole head)."""

    @property
    def groups_tokens(self) -> bool:
        return False

    def keys(self, keys: Tensor) -> Tensor:
        return self.by_token(keys)

    def stored_keys(self, length: Tensor) -> Tensor:
        return self.stored_values(length)

    def bits_per_element(self, tokens: int, width: int, *, full: int) -> float:
        kept = min(self.residual_length, tokens) / tokens
        return kept * full + (1 - kept) * self._row_bits(width)
