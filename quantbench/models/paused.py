"""One forward pass over a block that waits at each input site until the linears there are quantized.

True-sequential quantization needs, for every site, inputs that the already quantized earlier sites of the block
produce. Instead of running the block again for each site, every batch runs in a coroutine of its own that stops where
the site's first linear is about to read its input; once all batches are there the site is solved, and they go on with
the quantized weights. So the block is computed once, and its outputs come for free.
"""

from collections.abc import Callable
from typing import Any

import torch
from greenlet import getcurrent, greenlet
from torch import Tensor, nn

from quantbench.methods.stats import SiteStats
from quantbench.models.capture import BlockInputs, run_block
from quantbench.models.memory import free_memory
from quantbench.models.structure import Block, Site

Solve = Callable[[Site, SiteStats], None]


class _Run(greenlet):
    """One batch on its way through the block. at: index of the site it waits at, ``len(sites)`` when it is through."""

    at: int = -1


def fits(block: Block, module: nn.Module, inputs: BlockInputs, device: torch.device) -> bool:
    """Whether all batches can wait inside the block at once.

    A waiting batch holds what the site reads, the residual stream and what led from one to the other (queries, keys
    and values, say); four times the residual stream and twice the widest input bound that, and half of the free memory
    may be taken. Attention that is not fused holds its scores too.
    """
    free = free_memory(device)
    if free is None:
        return True
    hidden = inputs.hidden[0]
    widest = max(module.get_submodule(site.linears[0]).in_features for site in block.sites)  # type: ignore[type-var]
    tokens = sum(h.shape[0] * h.shape[1] for h in inputs.hidden)
    channels = 4 * hidden.shape[2] + 2 * int(widest)  # type: ignore[arg-type]
    return tokens * channels * hidden.element_size() <= free / 2


@torch.no_grad()
def solve_in_one_pass(
    block: Block, module: nn.Module, inputs: BlockInputs, device: torch.device, solve: Solve, *, last: bool
) -> None:
    """Run every batch through ``module`` (a copy of the block), calling ``solve`` at each site when all are there.

    ``solve`` replaces the linears of its site in ``module``. Afterwards ``inputs`` holds the block's outputs; after the
    last block, whose outputs nobody reads, it does not.
    """
    sites, stats = block.sites, [SiteStats.empty(_linear(module, s).in_features, device=device) for s in block.sites]
    linears = [_linear(module, site) for site in sites]
    handles = [linear.register_forward_pre_hook(_waiting(i, stats[i])) for i, linear in enumerate(linears)]
    outputs: list[Tensor | None] = [None] * len(inputs.hidden)

    def through(index: int) -> None:
        hidden = inputs.hidden[index]
        outputs[index] = run_block(module, hidden, inputs.call(block.index, hidden), device)
        _current().at = len(sites)

    runs = [_Run(through) for _ in inputs.hidden]
    try:
        for position, site in enumerate(sites):
            for index, run in enumerate(runs):
                if run.at < position:
                    run.switch(*([index] if run.at < 0 else []))
            stats[position].complete()
            solve(site, stats[position])
            # a batch that waits here is already inside the old first linear: give that the new weight
            new = module.get_submodule(site.linears[0]).weight
            assert isinstance(new, Tensor)
            linears[position].weight.data = new.data
        if not last:
            for run in runs:
                while run.at < len(sites):
                    run.switch()
            inputs.hidden[:] = [output for output in outputs if output is not None]
    finally:
        for run in runs:
            run.throw()
        for handle in handles:
            handle.remove()


def _waiting(position: int, stats: SiteStats) -> Any:
    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        run = _current()
        assert run.at < position, "a block reads its input sites in an order that differs from batch to batch"
        stats.add(args[0])
        run.at = position
        run.parent.switch()

    return hook


def _current() -> _Run:
    run = getcurrent()
    assert isinstance(run, _Run)
    return run


def _linear(module: nn.Module, site: Site) -> nn.Linear:
    linear = module.get_submodule(site.linears[0])
    assert isinstance(linear, nn.Linear)
    return linear
