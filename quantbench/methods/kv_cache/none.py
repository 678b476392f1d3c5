"""No quantization of keys and values."""

from dataclasses import dataclass

from quantbench.methods.kv_cache.base import KVCache


@dataclass
class NoKVCache(KVCache):
    """Keys and values stay in the model's dtype (KV16)."""

    @property
    def quantizes(self) -> bool:
        return False

    @property
    def nominal_bits(self) -> int:
        return 16
