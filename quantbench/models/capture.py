"""Running decoder blocks one at a time, and seeing what flows into their linears."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from quantbench.methods.stats import SiteStats
from quantbench.models.experts import Experts
from quantbench.models.structure import Block, Structure
from quantbench.models.trace import map_tensors

Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass
class BlockInputs:
    """What the decoder blocks are called with, for one set of token ids.

    hidden: inputs of the next block, one tensor [batch, seqlen, hidden] a batch; calls: for each batch size, what each
    block is given beside the hidden states (masks, rotary embeddings ...), which does not depend on the tokens.
    """

    hidden: list[Tensor]
    calls: dict[int, list[Call]]

    def call(self, block: int, hidden: Tensor) -> Call:
        """What ``block`` is given beside ``hidden``."""
        return self.calls[hidden.shape[0]][block]


class _Recorded(Exception):
    """Leaves the model's forward after the last block: no logits are computed."""


@torch.no_grad()
def block_inputs(model: nn.Module, structure: Structure, batches: Sequence[Tensor]) -> BlockInputs:
    """Everything before the first block, for each batch of token ids [batch, seqlen]; no block is computed."""
    hidden: list[Tensor] = []
    calls: dict[int, list[Call]] = {}
    wrap = returns_tuple(model, structure, batches[0])
    for ids in batches:
        seen: list[tuple[Tensor, Call]] = []
        with _recording(structure, seen, wrap), suppress(_Recorded):
            model(input_ids=ids, use_cache=False)
        hidden.append(seen[0][0])
        calls.setdefault(ids.shape[0], [call for _, call in seen])
    return BlockInputs(hidden, calls)


@contextmanager
def _recording(structure: Structure, seen: list[tuple[Tensor, Call]], wrap: bool) -> Iterator[None]:
    """Replace each block's forward by one that notes its arguments and passes the hidden states through."""

    def record(*args: Any, **kwargs: Any) -> Any:
        hidden, call = split_hidden(args, kwargs)
        seen.append((hidden, call))
        if len(seen) == len(structure.blocks):
            raise _Recorded
        return (hidden,) if wrap else hidden

    try:
        for block in structure.blocks:
            block.module.forward = record
        yield
    finally:
        for block in structure.blocks:
            del block.module.forward


def split_hidden(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, Call]:
    """The hidden states that a block is called with, and the rest of its arguments."""
    if args:
        return args[0], (args[1:], dict(kwargs))
    rest = dict(kwargs)
    return rest.pop("hidden_states"), ((), rest)


def returns_tuple(model: nn.Module, structure: Structure, ids: Tensor) -> bool:
    """Whether blocks return (hidden, ...) or hidden alone: ask the first one, on a few tokens."""
    answers: list[bool] = []

    def ask(module: nn.Module, args: Any, output: Any) -> None:
        answers.append(isinstance(output, tuple))
        raise _Recorded

    handle = structure.blocks[0].module.register_forward_hook(ask)
    try:
        with suppress(_Recorded):
            model(input_ids=ids[:1, :4], use_cache=False)
    finally:
        handle.remove()
    return answers[0]


@torch.no_grad()
def run_block(module: nn.Module, hidden: Tensor, call: Call, device: torch.device) -> Tensor:
    """Output of a block for one batch; the result comes back to where ``hidden`` lies."""
    args, kwargs = to_device(call, device)
    output = module(hidden.to(device), *args, **kwargs)
    return (output[0] if isinstance(output, tuple) else output).to(hidden.device)


def to_device(value: Any, device: torch.device) -> Any:
    """Tensors inside nested tuples, lists and dicts moved to ``device``; everything else as it is."""
    return map_tensors(lambda tensor: tensor.to(device), value)


@dataclass
class Capture:
    """What one pass over a block saw: statistics by site name; calls of chosen submodules, and what these gave."""

    stats: dict[str, SiteStats] = field(default_factory=dict)
    calls: dict[str, list[Call]] = field(default_factory=dict)
    outputs: dict[str, list[Tensor]] = field(default_factory=dict)


@contextmanager
def capturing(
    module: nn.Module,
    block: Block,
    *,
    sites: Sequence[str],
    parents: Sequence[str] = (),
    max_calls: int | None = None,
    full: dict[str, Tensor] | None = None,
    device: torch.device,
) -> Iterator[Capture]:
    """While open, forward passes of ``module`` (the block or a copy) add to the yielded :class:`Capture`.

    sites: names of the input sites to collect; parents: submodules whose arguments and outputs to keep on the host, of
    at most ``max_calls`` calls; full: where :func:`remembering` puts the same tokens' inputs in full precision before a
    pass.
    """
    capture, handles = Capture(), []
    for site in block.sites:
        if site.name in sites:
            linear = module.get_submodule(site.linears[0])
            stats = SiteStats.empty(_in_features(linear), device=device)
            capture.stats[site.name] = stats
            handles.append(linear.register_forward_pre_hook(_updating(stats, site.name, {} if full is None else full)))
    for parent in parents:
        capture.calls[parent], capture.outputs[parent] = [], []
        hook = _keeping(capture.calls[parent], capture.outputs[parent], max_calls)
        handles.append(module.get_submodule(parent).register_forward_hook(hook, with_kwargs=True))
    try:
        yield capture
    finally:
        for handle in handles:
            handle.remove()
    for stats in capture.stats.values():
        stats.complete()


@contextmanager
def remembering(module: nn.Module, block: Block, sites: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """While open, each forward pass of ``module`` leaves the inputs of the named sites in the yielded dict.

    Sites of routed experts are left out: which tokens reach them depends on the pass.
    """
    seen, handles = dict[str, Tensor](), []
    for site in block.sites:
        if site.name in sites and not _is_routed(module, site.linears[0]):
            linear = module.get_submodule(site.linears[0])
            handles.append(linear.register_forward_pre_hook(_remembering(seen, site.name)))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _is_routed(module: nn.Module, name: str) -> bool:
    parts = name.split(".")
    return any(isinstance(module.get_submodule(".".join(parts[:depth])), Experts) for depth in range(len(parts)))


def _in_features(linear: nn.Module) -> int:
    assert isinstance(linear.in_features, int)
    return linear.in_features


def _updating(stats: SiteStats, name: str, full: dict[str, Tensor]) -> Any:
    return lambda module, args: stats.add(args[0], full.pop(name, None))


def _remembering(seen: dict[str, Tensor], name: str) -> Any:
    return lambda module, args: seen.__setitem__(name, args[0])


def _keeping(calls: list[Call], outputs: list[Tensor], limit: int | None) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if limit is None or len(calls) < limit:
            calls.append(to_device((args, kwargs), torch.device("cpu")))
            outputs.append(first_of(output).detach().to("cpu", copy=True))

    return hook


def first_of(output: Any) -> Tensor:
    """The tensor that a module gives, whatever else comes with it."""
    return output[0] if isinstance(output, tuple) else output
