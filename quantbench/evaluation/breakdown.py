"""Which kinds of layers the time of a forward pass goes to."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from quantbench.timings import REST

Mark = Callable[[], float]
_PASS = ""


@contextmanager
def timed_layers(model: nn.Module, device: torch.device) -> Iterator[dict[str, list[Mark]]]:
    """What runs inside is timed by kind of linear: the last part of its name that is no number.

    Yields marks by kind, before and after each call in turns, those of the whole model under ``""``; a mark is the
    seconds since some moment, to be asked for when the device has done its work.
    """
    marks: dict[str, list[Mark]] = {}
    handles = []
    for kind, module in [(_PASS, model), *_linears(model)]:
        record = _recorder(marks.setdefault(kind, []), device)
        # before other hooks, which may rotate the inputs, and after them
        handles += [module.register_forward_pre_hook(record, prepend=True), module.register_forward_hook(record)]
    try:
        yield marks
    finally:
        for handle in handles:
            handle.remove()


def seconds_by_kind(marks: dict[str, list[Mark]]) -> dict[str, float]:
    """Seconds of each kind of linear over all passes, and of the rest of the model."""
    spent = {
        kind: sum(end() - start() for start, end in zip(m[::2], m[1::2], strict=True)) for kind, m in marks.items()
    }
    total = spent.pop(_PASS)
    return spent | {REST: total - sum(spent.values())}


def _linears(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Layers with inputs and outputs, in full precision or however quantized, but none inside another."""
    outer = None
    for name, module in model.named_modules():
        if outer is not None and name.startswith(f"{outer}."):
            continue
        if hasattr(module, "in_features") and hasattr(module, "out_features"):
            outer = name
            yield [part for part in name.split(".") if not part.isdigit()][-1], module


def _recorder(marks: list[Mark], device: torch.device) -> Callable[..., None]:
    """A hook that notes the time: the device's own where it works behind the host."""

    def record(*_: Any) -> None:
        if device.type != "cuda":
            now = time.perf_counter()
            marks.append(lambda: now)
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        marks.append(lambda: origin.elapsed_time(event) / 1e3)

    if device.type == "cuda":
        origin = torch.cuda.Event(enable_timing=True)
        origin.record()
    return record
