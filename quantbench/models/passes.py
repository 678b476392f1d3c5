"""Passes over one decoder block: what they see, and the outputs that become the next block's inputs."""

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from quantbench.methods.histogram import Histogram
from quantbench.methods.rounding.tuner import BlockTuner
from quantbench.methods.transform.base import SiteScaling
from quantbench.methods.variant import Variant
from quantbench.models.attention import remove_caches_
from quantbench.models.capture import BlockInputs, Capture, capturing, remembering, run_block
from quantbench.models.structure import Block
from quantbench.models.tune import TuningData


class Twin(NamedTuple):
    """A block in full precision, its inputs there, and histograms of what its sites read, once someone has asked."""

    module: nn.Module
    inputs: BlockInputs
    histograms: dict[str, Histogram]

    def transformed(self, module: nn.Module) -> "Twin":
        """The twin of ``module``, a copy of the block that was transformed and in which no weight is quantized yet."""
        changed = copy.deepcopy(module)
        remove_caches_(changed)
        return self._replace(module=changed)


def copy_of(block: Block, device: torch.device) -> nn.Module:
    """The block's module, to be changed, on ``device``."""
    return copy.deepcopy(block.module).to(device)


def captured(
    block: Block,
    module: nn.Module,
    variants: Sequence[Variant],
    inputs: BlockInputs,
    device: torch.device,
    *,
    twin: Twin | None = None,
    outputs: list[Tensor] | None = None,
) -> Capture:
    """Statistics of every site, and the attention and MLP calls that transforms want to replay."""
    limit = calls_wanted(variants)
    parents = {s.parent for s in block.sites if s.parent is not None and s.fold and len(s.fold.sites) == 1}
    sites = [site.name for site in block.sites]
    return captured_stats(
        block, module, sites, inputs, device, parents=sorted(parents), max_calls=limit, twin=twin, outputs=outputs
    )


def calls_wanted(variants: Sequence[Variant]) -> int | None:
    """How many of a submodule's calls the variants replay; None for all."""
    wanted = [v.transform.replayed_batches for v in variants if isinstance(v.transform, SiteScaling)]
    return None if None in wanted else max((w for w in wanted if w is not None), default=0)


def captured_stats(
    block: Block,
    module: nn.Module,
    sites: Sequence[str],
    inputs: BlockInputs,
    device: torch.device,
    *,
    parents: Sequence[str] = (),
    max_calls: int | None = None,
    twin: Twin | None = None,
    outputs: list[Tensor] | None = None,
) -> Capture:
    """Statistics of the named sites.

    twin: where each token's inputs in full precision come from, batch by batch; None where no one asks for them.

    outputs: gets the block's output for each batch.
    """
    paired: AbstractContextManager[dict[str, Tensor]]
    paired = nullcontext({}) if twin is None else remembering(twin.module, block, sites)
    capture = partial(capturing, module, block, sites=sites, parents=parents, max_calls=max_calls, device=device)
    with paired as full, capture(full=full) as seen:
        for index, hidden in enumerate(inputs.hidden):
            call = inputs.call(block.index, hidden)
            if twin is not None:
                run_block(twin.module, twin.inputs.hidden[index], call, device)
            output = run_block(module, hidden, call, device)
            if outputs is not None:
                outputs.append(output)
    return seen


def outputs_of(block: Block, module: nn.Module, inputs: BlockInputs, device: torch.device) -> list[Tensor]:
    """What ``module`` (the block or a copy) gives, batch by batch."""
    return [run_block(module, hidden, inputs.call(block.index, hidden), device) for hidden in inputs.hidden]


def advance(block: Block, module: nn.Module, inputs: BlockInputs, device: torch.device) -> None:
    """Replace the inputs of this block by its outputs, batch by batch: there is never a second set of them."""
    for index, hidden in enumerate(inputs.hidden):
        inputs.hidden[index] = run_block(module, hidden, inputs.call(block.index, hidden), device)


def tuning_data(
    block: Block, tuner: BlockTuner, twin: Twin, inputs: BlockInputs, outputs: list[Tensor], device: torch.device
) -> TuningData:
    """What to tune a block on; outputs: of full precision on its own inputs."""
    targets = [outputs]
    if tuner.augmented:
        targets.append(outputs_of(block, twin.module, inputs, device))
    return TuningData(inputs, targets)
