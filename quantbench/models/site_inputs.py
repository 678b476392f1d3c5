"""A pass over one block that looks at the inputs of its linears themselves: at some of them, or at their histogram."""

from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from quantbench.methods.histogram import Histogram
from quantbench.methods.input_sample import InputSample
from quantbench.models.capture import BlockInputs, run_block
from quantbench.models.structure import Block

_SAMPLED_TOKENS = 256  # of each site, for transforms that try out what rounding does to them


class _Observer(Protocol):
    def add(self, inputs: Tensor) -> None:
        """Look at ``inputs`` [..., in] of one batch."""


T = TypeVar("T", bound=_Observer)


def samples(block: Block, module: nn.Module, inputs: BlockInputs, device: torch.device) -> dict[str, InputSample]:
    """Some of the tokens that each site of ``module`` (the block or a copy) reads, by the site's name."""
    tokens = sum(hidden.shape[0] * hidden.shape[1] for hidden in inputs.hidden)
    return _observed(block, module, inputs, device, partial(InputSample, max(1, tokens // _SAMPLED_TOKENS)))


def histograms(block: Block, module: nn.Module, inputs: BlockInputs, device: torch.device) -> dict[str, Histogram]:
    """All values that each site of ``module`` (the block or a copy) reads, counted, by the site's name."""
    return _observed(block, module, inputs, device, Histogram)


@torch.no_grad()
def _observed(
    block: Block, module: nn.Module, inputs: BlockInputs, device: torch.device, make: Callable[[], T]
) -> dict[str, T]:
    observers = {site.name: make() for site in block.sites}
    handles = [
        module.get_submodule(site.linears[0]).register_forward_pre_hook(_adding(observers[site.name]))
        for site in block.sites
    ]
    try:
        for hidden in inputs.hidden:
            run_block(module, hidden, inputs.call(block.index, hidden), device)
    finally:
        for handle in handles:
            handle.remove()
    return observers


def _adding(observer: _Observer) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    return lambda module, args: observer.add(args[0])
