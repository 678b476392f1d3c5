"""KV cache: how keys and values of past tokens are stored."""

from quantbench.methods.kv_cache.base import KVCache, QuantizedKVCache, rotated
from quantbench.methods.kv_cache.kivi import KIVI
from quantbench.methods.kv_cache.none import NoKVCache
from quantbench.methods.kv_cache.per_token import PerToken

__all__ = ["KIVI", "KVCache", "NoKVCache", "PerToken", "QuantizedKVCache", "rotated"]
