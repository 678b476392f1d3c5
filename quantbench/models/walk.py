"""The walk: quantize a model block by block, for one variant or several in the same pass."""

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from quantbench.formats import QuantizedWeight
from quantbench.methods.rounding.tuner import BlockTuner
from quantbench.methods.transform.base import NoTransform, SiteScaling
from quantbench.methods.variant import Variant
from quantbench.models.capture import BlockInputs, Capture, block_inputs, capturing, remembering, run_block
from quantbench.models.fisher import fisher_information
from quantbench.models.paused import fits, solve_in_one_pass
from quantbench.models.plan import planned
from quantbench.models.solve import BlockSolver
from quantbench.models.structure import Block, Structure
from quantbench.models.tune import TuningData
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
    ``propagate`` advance side by side, each on its own hidden states, beside those of full precision where a variant
    compares the two.

    Raises:
        ValueError: a variant needs calibration and ``ids`` is None.
        QuantizationError: weights or activations that no stated rule covers.
    """
    if ids is None and any(v.needs_calibration for v in variants):
        raise ValueError("calibration tokens are required by a variant")
    plans = [planned(model, structure, variant, ids, device) for variant in variants]
    variants = [variant for variant, _ in plans]
    results = [VariantResult(notes=notes) for _, notes in plans]
    shared, own = None, dict[int, BlockInputs]()
    if ids is not None:
        shared = block_inputs(model, structure, ids.split(max(1, _BATCH_TOKENS // ids.shape[1])))
        advancing = [i for i, v in enumerate(variants) if v.needs_calibration and v.statistics == "propagate"]
        own = {index: BlockInputs(list(shared.hidden), shared.calls) for index in advancing}
        tuned = [(v.rounding, v.format) for v in variants if isinstance(v.rounding, BlockTuner)]
        for size in {tuner.schedule(len(ids), format).batch_size for tuner, format in tuned}:
            shared.calls |= block_inputs(model, structure, [ids[:size]]).calls
        if not tuned and not any(v.needs_pairs or (v.needs_calibration and v.statistics == "fp") for v in variants):
            shared = None
    fisher = None if ids is None else _fisher(model, structure, variants, ids, device)
    for block in track(structure.blocks, stage="quantize", unit="block"):
        last = block is structure.blocks[-1]
        _quantize_block(block, variants, results, shared, own, device, fisher, last=last)
    return results


def _fisher(
    model: nn.Module, structure: Structure, variants: Sequence[Variant], ids: Tensor, device: torch.device
) -> dict[str, Tensor] | None:
    """Squared gradients of every weight that a variant which asks for them quantizes."""
    asking = [v for v in variants if v.needs_fisher]
    names = [f"{block.name}.{linear}" for block in structure.blocks for linear in block.linears]
    linears = [name for name in names if any(v.allocation.quantizes(name) for v in asking)]
    return fisher_information(model, linears, ids, device=device) if linears else None


def _quantize_block(
    block: Block,
    variants: Sequence[Variant],
    results: list[VariantResult],
    shared: BlockInputs | None,
    own: dict[int, BlockInputs],
    device: torch.device,
    fisher: Mapping[str, Tensor] | None,
    *,
    last: bool,
) -> None:
    """Quantize one block for every variant and turn its inputs into its outputs (``last``: nobody reads those)."""
    common, twin, outputs = None, None, list[Tensor]()
    sharing = [v for v in variants if v.needs_statistics and v.statistics == "fp"]
    if shared is not None:
        twin = _Twin(_copy(block, device), shared)
        if sharing:
            common = _captured(block, twin.module, sharing, shared, device, outputs=outputs)
        elif any(isinstance(v.rounding, BlockTuner) for v in variants):
            outputs = _outputs(block, twin.module, shared, device)
    for index, (variant, result) in enumerate(zip(variants, results, strict=True)):
        module = _copy(block, device)
        inputs, capture = own.get(index), common if variant in sharing else None
        in_sequence = inputs is not None and variant.rounding.sequential
        on_the_way = in_sequence and isinstance(variant.transform, NoTransform)  # collected while rounding
        if inputs is not None and variant.needs_statistics and not on_the_way:
            paired = twin if variant.needs_pairs and not in_sequence else None
            capture = _captured(block, module, [variant], inputs, device, twin=paired)
        solver = BlockSolver(
            block, module, variant, capture, result, device, fisher=fisher if variant.needs_fisher else None
        )
        solver.transform()
        if isinstance(variant.rounding, BlockTuner):
            assert twin is not None
            solver.tune(_tuning_data(block, variant.rounding, twin, inputs or twin.inputs, outputs, device))
        elif inputs is not None and in_sequence:
            _round_in_sequence(block, module, solver, inputs, device, twin if variant.needs_pairs else None, last=last)
        else:
            solver.round([site.name for site in block.sites], solver.stats)
        solver.finish()
        if inputs is not None and not in_sequence and not last:
            _advance(block, module, inputs, device)
    if twin is not None and not last:
        twin.inputs.hidden = outputs or _outputs(block, twin.module, twin.inputs, device)


class _Twin(NamedTuple):
    """A block in full precision, and its inputs there."""

    module: nn.Module
    inputs: BlockInputs


def _round_in_sequence(
    block: Block,
    module: nn.Module,
    solver: BlockSolver,
    inputs: BlockInputs,
    device: torch.device,
    twin: _Twin | None,
    *,
    last: bool,
) -> None:
    """True-sequential: each site is calibrated on what the quantized sites before it produce."""
    if twin is None and fits(block, module, inputs, device):
        solve_in_one_pass(
            block,
            module,
            inputs,
            device,
            lambda site, stats: solver.round([site.name], {site.name: stats}),
            last=last,
        )
        return
    # a transform changes what a site's inputs are, so the pairs come from a twin that it has changed too
    paired = None if twin is None else twin._replace(module=copy.deepcopy(module))
    for sites in _in_sequence(block):
        solver.round(sites, _captured_stats(block, module, sites, inputs, device, twin=paired).stats)
    if not last:
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
    block: Block,
    module: nn.Module,
    variants: Sequence[Variant],
    inputs: BlockInputs,
    device: torch.device,
    *,
    twin: _Twin | None = None,
    outputs: list[Tensor] | None = None,
) -> Capture:
    """Statistics of every site, and the attention and MLP calls that transforms want to replay."""
    wanted = [v.transform.replayed_batches for v in variants if isinstance(v.transform, SiteScaling)]
    limit = None if None in wanted else max((w for w in wanted if w is not None), default=0)
    parents = {s.parent for s in block.sites if s.parent is not None and s.fold and len(s.fold.sites) == 1}
    sites = [site.name for site in block.sites]
    return _captured_stats(
        block, module, sites, inputs, device, parents=sorted(parents), max_calls=limit, twin=twin, outputs=outputs
    )


def _captured_stats(
    block: Block,
    module: nn.Module,
    sites: Sequence[str],
    inputs: BlockInputs,
    device: torch.device,
    *,
    parents: Sequence[str] = (),
    max_calls: int | None = None,
    twin: _Twin | None = None,
    outputs: list[Tensor] | None = None,
) -> Capture:
    """twin: where each token's inputs in full precision come from, batch by batch; None where no one asks for them.

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


def _tuning_data(
    block: Block, tuner: BlockTuner, twin: _Twin, inputs: BlockInputs, outputs: list[Tensor], device: torch.device
) -> TuningData:
    """What to tune a block on; outputs: of full precision on its own inputs."""
    targets = [outputs]
    if tuner.augmented:
        targets.append(_outputs(block, twin.module, inputs, device))
    return TuningData(inputs, targets)


def _outputs(block: Block, module: nn.Module, inputs: BlockInputs, device: torch.device) -> list[Tensor]:
    return [run_block(module, hidden, inputs.call(block.index, hidden), device) for hidden in inputs.hidden]


def _advance(block: Block, module: nn.Module, inputs: BlockInputs, device: torch.device) -> None:
    """Replace the inputs of this block by its outputs, batch by batch: there is never a second set of them."""
    for index, hidden in enumerate(inputs.hidden):
        inputs.hidden[index] = run_block(module, hidden, inputs.call(block.index, hidden), device)
