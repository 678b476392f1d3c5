"""The walk: quantize a model block by block, for one variant or several in the same pass."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from quantbench.formats import QuantizedWeight
from quantbench.methods.transform.base import SiteScaling
from quantbench.methods.variant import Variant
from quantbench.models.capture import BlockInputs, Capture, block_inputs, capturing, run_block
from quantbench.models.solve import BlockSolver
from quantbench.models.structure import Block, Structure
from quantbench.progress import track

_BATCH_TOKENS = 4096


@dataclass
class VariantResult:
    """What quantizing changed: quantized linears and rescaled parameters by their names in the model, and notes."""

    weights: dict[str, QuantizedWeight] = field(default_factory=dict)
    parameters: dict[str, Tensor] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def quantize(
    model: nn.Module,
    structure: Structure,
    variants: Sequence[Variant],
    ids: Tensor | None,
    *,
    device: torch.device,
) -> list[VariantResult]:
    """Quantize every variant in one walk over the blocks; ``model`` (on the host) is left unchanged.

    One block at a time is on ``device``; hidden states stay on the host. ids: calibration tokens [samples, seqlen],
    None when no variant needs any. Variants with ``statistics=fp`` share one capture of each block; those with
    ``propagate`` advance side by side, each on its own hidden states.

    Raises:
        ValueError: a variant needs calibration and ``ids`` is None.
        QuantizationError: weights or activations that no stated rule covers.
    """
    if ids is None and any(v.needs_calibration for v in variants):
        raise ValueError("calibration tokens are required by a variant")
    results = [VariantResult() for _ in variants]
    shared, own = None, dict[int, BlockInputs]()
    if ids is not None:
        shared = block_inputs(model, structure, ids.split(max(1, _BATCH_TOKENS // ids.shape[1])))
        advancing = [i for i, v in enumerate(variants) if v.needs_calibration and v.statistics == "propagate"]
        own = {index: BlockInputs(list(shared.hidden), shared.calls) for index in advancing}
        if not any(v.needs_calibration and v.statistics == "fp" for v in variants):
            shared = None
    for block in track(structure.blocks, stage="quantize", unit="block"):
        _quantize_block(block, variants, results, shared, own, device)
    return results


def _quantize_block(
    block: Block,
    variants: Sequence[Variant],
    results: list[VariantResult],
    shared: BlockInputs | None,
    own: dict[int, BlockInputs],
    device: torch.device,
) -> None:
    common: Capture | None = None
    sharing = [v for v in variants if v.needs_calibration and v.statistics == "fp"]
    if shared is not None:
        module = _copy(block, device)
        common = _captured(block, module, sharing, shared, device)
        _advance(block, module, shared, device)
    for index, (variant, result) in enumerate(zip(variants, results, strict=True)):
        module = _copy(block, device)
        inputs, capture = own.get(index), common if variant in sharing else None
        if inputs is not None:
            capture = _captured(block, module, [variant], inputs, device)
        solver = BlockSolver(block, module, variant, capture, result, device)
        solver.transform()
        if inputs is not None and variant.rounding.sequential:
            for sites in _in_sequence(block):
                solver.round(sites, _captured_stats(block, module, sites, inputs, device).stats)
        else:
            solver.round([site.name for site in block.sites], solver.stats)
        solver.finish()
        if inputs is not None:
            _advance(block, module, inputs, device)


def _in_sequence(block: Block) -> list[list[str]]:
    """Site names in the steps of true-sequential quantization; the experts of a block take each step together."""
    steps: dict[str, list[str]] = {}
    for site in block.sites:
        steps.setdefault(site.role, []).append(site.name)
    return list(steps.values())


def _copy(block: Block, device: torch.device) -> nn.Module:
    return copy.deepcopy(block.module).to(device)


def _captured(
    block: Block, module: nn.Module, variants: Sequence[Variant], inputs: BlockInputs, device: torch.device
) -> Capture:
    """Statistics of every site, and the attention and MLP calls that transforms want to replay."""
    wanted = [v.transform.replayed_batches for v in variants if isinstance(v.transform, SiteScaling)]
    limit = None if None in wanted else max((w for w in wanted if w is not None), default=0)
    parents = {s.parent for s in block.sites if s.parent is not None and s.fold and len(s.fold.sites) == 1}
    sites = [site.name for site in block.sites]
    return _captured_stats(block, module, sites, inputs, device, parents=sorted(parents), max_calls=limit)


def _captured_stats(
    block: Block,
    module: nn.Module,
    sites: Sequence[str],
    inputs: BlockInputs,
    device: torch.device,
    *,
    parents: Sequence[str] = (),
    max_calls: int | None = None,
) -> Capture:
    with capturing(module, block, sites=sites, parents=parents, max_calls=max_calls, device=device) as capture:
        for hidden in inputs.hidden:
            run_block(module, hidden, inputs.call(block.index, hidden), device)
    return capture


def _advance(block: Block, module: nn.Module, inputs: BlockInputs, device: torch.device) -> None:
    """Replace the inputs of this block by its outputs."""
    for index, hidden in enumerate(inputs.hidden):
        inputs.hidden[index] = run_block(module, hidden, inputs.call(block.index, hidden), device)
