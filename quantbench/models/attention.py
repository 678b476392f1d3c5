"""Attention that reads its keys and values from a quantized cache.

transformers' models hand queries, keys (after their rotary embedding, those of the cache included) and values to an
attention function that the configuration names. Here it gets another one, which quantizes what a cache would hold in
codes and then calls the model's own. What each query sees is what decoding token by token with such a cache shows it,
whether one token is computed at a time or a whole sequence: so perplexity is that of generation.
"""

import copy
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from quantbench.measurement import Measurement
from quantbench.methods.kv_cache import KVCache, QuantizedKVCache, rotated

_NAME, _ATTRIBUTE = "quantbench", "_quantbench_attention"
_OWN = ("sdpa", "eager")  # functions that take any mask
_QUERIES = 256  # that are computed together, where each sees another part of the cache in codes

Attended = tuple[Tensor, Tensor | None]
Function = Callable[..., Attended]


class _Replacement(Protocol):
    """What a module attends by instead. config: the module's own; hook: registered with it."""

    config: Any
    hook: Any

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
    ) -> Attended: ...


def set_caches_(root: nn.Module, caches: Mapping[str, KVCache]) -> None:
    """Let the attention modules of these names (in ``root``) read keys and values as their cache stores them."""
    for name, cache in caches.items():
        assert isinstance(cache, QuantizedKVCache)
        module = root.get_submodule(name)
        hook = module.register_forward_pre_hook(_keep_tokens, with_kwargs=True) if cache.residual_length else None
        _set(module, _Cached(cache, _own_function(module), module.config, hook))


def remove_caches_(root: nn.Module) -> None:
    """Undo :func:`set_caches_` for every module in ``root``, which may be a copy."""
    for module in root.modules():
        replacement: _Replacement | None = getattr(module, _ATTRIBUTE, None)
        if replacement is not None:
            module.config = replacement.config
            if replacement.hook is not None:
                replacement.hook.remove()
            delattr(module, _ATTRIBUTE)


@contextmanager
def watching_attention(root: nn.Module) -> Iterator[list[str]]:
    """While open, names of modules in ``root`` that attend through transformers' interface come to the yielded list."""
    seen: list[str] = []
    for name, module in root.named_modules():
        if getattr(getattr(module, "config", None), "_attn_implementation", None) in _OWN:
            _set(module, _Watched(name, seen, _own_function(module), module.config))
    try:
        yield seen
    finally:
        remove_caches_(root)


def cache_measurements(caches: Mapping[str, KVCache], *, tokens: int, head_dim: int, full: int) -> list[Measurement]:
    """Stored bits over elements of keys and values after ``tokens`` tokens; full: bits of what is not quantized."""
    found = [
        c.bits_per_element(tokens, head_dim, full=full) for c in caches.values() if isinstance(c, QuantizedKVCache)
    ]
    if not found:
        return []
    mean = sum(found) / len(found)
    return [Measurement("kv_bits_per_element", f"{tokens}_tokens", mean, "bits", len(found), baseline=full)]


def _set(module: Any, replacement: _Replacement) -> None:
    from transformers import AttentionInterface

    AttentionInterface.register(_NAME, _attend)
    setattr(module, _ATTRIBUTE, replacement)
    module.config = copy.copy(module.config)  # the model's own still says which masks it makes
    module.config._attn_implementation = _NAME


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> Attended:
    """The attention function that the configuration of a module with a replacement names."""
    replacement: _Replacement = getattr(module, _ATTRIBUTE)
    return replacement.attend(module, query, key, value, attention_mask, **options)


def _own_function(module: Any) -> Function:
    """The attention function that a module's configuration names; the eager one is defined beside its class."""
    from transformers import AttentionInterface

    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    function: Function = AttentionInterface().get_interface(module.config._attn_implementation, eager)
    return function


def _keep_tokens(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
    """Let a cache of the layer's last tokens keep all: those that share a scale are needed as long as one of them is.

    The mask hides what has left the window, as it does while a whole sequence is computed.

    Raises:
        ValueError: a cache of fixed size, of which it is not to be seen how many tokens it holds.
    """
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    layers: Any = getattr(kwargs.get("past_key_values"), "layers", ())
    if len(layers) <= module.layer_idx:  # a cache that adds layers as they come
        return
    layer = layers[module.layer_idx]
    if type(layer) is DynamicSlidingWindowLayer and not layer.is_initialized:
        layers[module.layer_idx] = DynamicLayer()
    elif type(layer) is not DynamicLayer:
        raise ValueError(
            f"kv_cache.residual_length: allowed above 0 only with a cache that grows with the text, not {layer}"
        )


@dataclass
class _Watched:
    """The module's own attention; tells that it was called."""

    name: str
    seen: list[str]
    own: Function
    config: Any
    hook: None = None

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
    ) -> Attended:
        self.seen.append(self.name)
        return self.own(module, query, key, value, mask, **options)


@dataclass
class _Cached:
    """The module's own attention over keys and values as a quantized cache gives them back.

    Shapes: query [batch, heads, queries, width], key and value [batch, key heads, tokens, width]; the last query is
    that of the last token.
    """

    cache: QuantizedKVCache
    own: Function
    config: Any
    hook: Any

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
    ) -> Attended:
        cache, dtype = self.cache, query.dtype
        if cache.rotate:
            query, key = rotated(query).to(dtype), rotated(key)
        if cache.rotate_values:
            value = rotated(value)
        if cache.residual_length:
            output, weights = self._by_padding(module, query, key, value, mask, options), None
        else:
            key, value = _through(key, cache.keys(key)).to(dtype), _through(value, cache.values(value)).to(dtype)
            output, weights = self.own(module, query, key, value, mask, **options)
        if cache.rotate_values:  # output [batch, queries, heads, width]
            output = rotated(output, back=True).to(dtype)
        return output, weights

    def _by_padding(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: dict[str, Any]
    ) -> Tensor:
        """Rows by what stands before their first token: groups of tokens start there."""
        _check_in_sequence(mask)
        padding = [0] * len(query)
        if self.cache.groups_tokens:
            padding = _padding(len(query), key.shape[2], mask, options.get("position_ids"))
        output: Tensor | None = None
        for size in sorted(set(padding)):
            rows = torch.tensor([row for row, own in enumerate(padding) if own == size], device=query.device)
            shown = None if mask is None else (mask if len(mask) == 1 else mask[rows])[..., size : key.shape[2]]
            found = self._mixed(module, query[rows], key[rows, :, size:], value[rows, :, size:], shown, options)
            output = found.new_empty(len(query), *found.shape[1:]) if output is None else output
            output = output.index_copy(0, rows, found)
        assert output is not None
        return output

    def _mixed(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: dict[str, Any]
    ) -> Tensor:
        """Each query sees the oldest tokens as stored and the newest as they are.

        The own attention gets both versions of the tokens where it matters, beside each other, and a mask that shows
        each query one of them.
        """
        cache, dtype, (queries, tokens) = self.cache, query.dtype, (query.shape[2], key.shape[2])
        stored_key, stored_value = (
            _through(key, cache.keys(key)).to(dtype),
            _through(value, cache.values(value)).to(dtype),
        )
        key, value, outputs = key.to(dtype), value.to(dtype), []
        for start in range(0, queries, _QUERIES):
            rows = slice(start, min(start + _QUERIES, queries))
            length = torch.arange(rows.start, rows.stop, device=key.device) + (tokens - queries + 1)
            length = length.clamp(min=1)  # padding before the sequence, which nobody reads
            none, keys, values = torch.zeros_like(length), cache.stored_keys(length), cache.stored_values(length)
            shown = None if mask is None else mask[..., rows, :]
            bands = [
                _Band(stored_key, stored_value, none, values),
                _Band(stored_key, value, values, keys),  # keys are stored first
                _Band(key, value, keys, length),
            ]
            parts = [band.cut(shown) for band in bands if bool((band.first < band.last).any())]
            together = [torch.cat(part, dim) for part, dim in zip(zip(*parts, strict=True), (2, 2, 3), strict=True)]
            outputs.append(self.own(module, query[:, :, rows], *together, **options)[0])
        return torch.cat(outputs, 1)


class _Band(NamedTuple):
    """Keys and values [batch, heads, tokens, width] of which query i sees those of tokens first[i] ... last[i] - 1."""

    keys: Tensor
    values: Tensor
    first: Tensor
    last: Tensor

    def cut(self, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The tokens that any query sees, and what is added to their scores [1 or batch, 1, queries, tokens]."""
        low, high = int(self.first.min()), int(self.last.max())
        token = torch.arange(low, high, device=self.first.device)
        hidden = (token < self.first[:, None]) | (token >= self.last[:, None])
        if mask is None:
            scores = self.keys.new_zeros(1, 1, *hidden.shape)
        elif mask.dtype == torch.bool:
            scores, hidden = self.keys.new_zeros(1, 1, 1, 1), hidden | ~mask[..., low:high]
        else:
            scores = mask[..., low:high]
        lowest = torch.finfo(self.keys.dtype).min
        return self.keys[:, :, low:high], self.values[:, :, low:high], scores.masked_fill(hidden, lowest)


def _through(x: Tensor, stored: Tensor) -> Tensor:
    """``stored``, whose gradient passes the rounding as if it were not there."""
    return x + (stored - x).detach() if x.requires_grad else stored


def _check_in_sequence(mask: Tensor | None) -> None:
    """Refuse tokens that are not laid out one after the other: which are the newest is then not to be seen.

    Raises:
        ValueError: a query sees tokens with a gap between them.
    """
    if mask is None or mask.shape[-2] == 1:
        return
    seen = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    begins = (seen[..., 1:] & ~seen[..., :-1]).sum(-1) + seen[..., 0]
    if bool((begins > 1).any()):
        raise ValueError("kv_cache.residual_length: allowed above 0 only where each query sees tokens in a row")


def _padding(batch: int, tokens: int, mask: Tensor | None, positions: Tensor | None) -> list[int]:
    """Columns before the first token of each row: left padding of a batch of prompts."""
    if positions is not None:
        before = tokens - 1 - positions[:, -1]
    elif mask is not None:
        seen = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
        before = seen[:, 0, -1].int().argmax(-1)
    else:
        return [0] * batch
    return [int(count) for count in before.expand(batch)]
