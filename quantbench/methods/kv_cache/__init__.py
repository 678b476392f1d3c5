"""KV cache: how keys and values of past tokens are stored."""

from quantbench.methods.kv_cache.base import KVCache
from quantbench.methods.kv_cache.none import NoKVCache

__all__ = ["KVCache", "NoKVCache"]
