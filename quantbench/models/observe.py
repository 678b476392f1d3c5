"""Seeing what flows into every linear while a model runs block by block."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from quantbench.models.capture import block_inputs, run_block
from quantbench.models.structure import Block, Site, Structure
from quantbench.progress import track

BATCH_TOKENS = 4096


def observe(
    model: nn.Module,
    structure: Structure,
    ids: Tensor,
    see: Callable[[Block, Site, Tensor], None],
    *,
    device: torch.device,
    stage: str,
) -> None:
    """Call ``see(block, site, inputs [..., in])`` for every site and batch of calibration tokens ``ids``.

    ids: [samples, seqlen]. A copy of one block at a time is on ``device``; the model stays as it is. stage: what the
    work is called in its line of progress.
    """
    inputs = block_inputs(model, structure, ids.split(max(1, BATCH_TOKENS // ids.shape[1])))
    for block in track(structure.blocks, stage=stage, unit="block"):
        module = copy.deepcopy(block.module).to(device)
        for site in block.sites:
            module.get_submodule(site.linears[0]).register_forward_pre_hook(_seeing(see, block, site))
        inputs.hidden = [run_block(module, h, inputs.call(block.index, h), device) for h in inputs.hidden]


def _seeing(
    see: Callable[[Block, Site, Tensor], None], block: Block, site: Site
) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    return lambda module, args: see(block, site, args[0])
