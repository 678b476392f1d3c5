"""Watch one decoder block compute a few tokens: who was called, in which order, with which tensors."""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

TOKENS = 8

Key = tuple[object, ...]


@dataclass(frozen=True)
class Call:
    """The first call of a module. The tensors are kept, so that no storage is reused while keys are compared."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any = None

    @property
    def input_key(self) -> Key | None:
        """Key of the first tensor handed in, positionally or by name."""
        tensor = next((x for x in (*self.args, *self.kwargs.values()) if isinstance(x, Tensor)), None)
        return None if tensor is None else key_of(tensor)


@dataclass(frozen=True)
class Trace:
    """Calls by module name relative to the block ("" is the block itself), in the order of entry.

    Members of a ModuleList stand in the order of the list, where its first member was entered.
    """

    block: nn.Module
    calls: dict[str, Call] = field(default_factory=dict)

    def modules(self) -> dict[str, nn.Module]:
        """The called modules in the order of ``calls``."""
        return {name: self.block.get_submodule(name) for name in self.calls}


def key_of(tensor: Tensor) -> Key:
    """Equal for a tensor and its reshaped views: same memory, same number of elements, same last dimension."""
    return tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.numel(), tensor.shape[-1]


def first_tensor(output: Any) -> Tensor:
    """The hidden states in what a module returned: the tensor itself or the first of a tuple."""
    tensor = output[0] if isinstance(output, tuple) else output
    assert isinstance(tensor, Tensor)
    return tensor


def common_parent(names: Iterable[str]) -> str:
    """Dotted name of the smallest module that holds all the named modules; "" is the root."""
    shared = []
    for parts in zip(*(name.split(".")[:-1] for name in names), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


class _Stop(Exception):
    """Leaves the model's forward once the inputs of the first block are known."""


@torch.no_grad()
def block_call(model: nn.Module, block: nn.Module) -> Call:
    """What ``model`` hands to ``block`` for a few tokens; the blocks after it are not run."""
    seen: list[Call] = []

    def catch(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(Call(args, kwargs))
        raise _Stop

    embedding = model.get_input_embeddings()  # type: ignore[operator]
    vocabulary, device = embedding.weight.shape[0], embedding.weight.device
    handle = block.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        model(input_ids=torch.arange(1, TOKENS + 1, device=device)[None] % vocabulary, use_cache=False)
    except _Stop:
        pass
    finally:
        handle.remove()
    assert seen, "the model's forward did not call its block"
    return seen[0]


def in_float32(block: nn.Module, call: Call) -> tuple[nn.Module, Call]:
    """A float32 copy of a block and of what it is called with, for proofs that 16 bits are too coarse for."""
    args, kwargs = map_tensors(lambda t: t.float() if t.is_floating_point() else t, (call.args, dict(call.kwargs)))
    return copy.deepcopy(block).float(), Call(args, kwargs)


def map_tensors(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """``change`` done to the tensors inside nested tuples, lists and dicts; everything else as it is."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {k: map_tensors(change, v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(map_tensors(change, v) for v in value)
    return value


@torch.no_grad()
def trace_block(block: nn.Module, call: Call) -> Trace:
    """Run ``block`` once on ``call``'s inputs and record the first call of each of its modules.

    Members of a ModuleList that the block did not reach (experts that no token chose) are run on a copy of the input
    of a sibling that it did reach, so that they are described too.
    """
    trace = Trace(block)
    handles = [h for name, module in block.named_modules() for h in _record(trace, name, module)]
    try:
        block(*call.args, **call.kwargs)
        for name, module in block.named_modules():
            if isinstance(module, nn.ModuleList):
                _visit_unreached(trace, name, module)
    finally:
        for handle in handles:
            handle.remove()
    lists = [name for name, module in block.named_modules() if isinstance(module, nn.ModuleList)]
    return Trace(block, dict(_in_list_order(trace.calls, lists)))


def _in_list_order(calls: dict[str, Call], lists: list[str]) -> list[tuple[str, Call]]:
    position = {name: place for place, name in enumerate(calls)}
    place = {name: (at, 0, at) for name, at in position.items()}
    for prefix in lists:
        members = [name for name in calls if name.startswith(f"{prefix}.")]
        for name in members:
            index = int(name[len(prefix) + 1 :].split(".")[0])
            place[name] = (position[members[0]], index, position[name])
    return sorted(calls.items(), key=lambda item: place[item[0]])


def _record(trace: Trace, name: str, module: nn.Module) -> list[Any]:
    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        trace.calls.setdefault(name, Call(args, dict(kwargs)))

    def leave(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if trace.calls[name].output is None:
            trace.calls[name] = Call(args, dict(kwargs), output)

    return [
        module.register_forward_pre_hook(enter, with_kwargs=True),
        module.register_forward_hook(leave, with_kwargs=True),
    ]


def _visit_unreached(trace: Trace, name: str, members: nn.ModuleList) -> None:
    names = [f"{name}.{index}" for index in range(len(members))]
    reached = next((trace.calls[n] for n in names if n in trace.calls), None)
    if reached is None:
        return
    for member_name, member in zip(names, members, strict=True):
        if member_name not in trace.calls:
            member(*(x.clone() if isinstance(x, Tensor) else x for x in reached.args), **reached.kwargs)
