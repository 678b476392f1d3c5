"""The plan of mixed precision: how many bits each linear gets."""

import copy
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from quantbench.errors import InputError
from quantbench.methods.allocation.mixed import Mixed
from quantbench.methods.grid import Grid
from quantbench.methods.stats import SiteStats
from quantbench.methods.variant import Variant
from quantbench.models.capture import block_inputs, capturing, run_block
from quantbench.models.divergence import OneLinearDivergence
from quantbench.models.fisher import fisher_information
from quantbench.models.knapsack import choose
from quantbench.models.sensitivity import FisherError, OutputError, Sensitivity, Trial
from quantbench.models.structure import Block, Structure
from quantbench.progress import track

_BATCH_TOKENS = 4096
_SKIPPED_BITS = 16


@dataclass
class Choices:
    """What each linear costs at each candidate: loss and bytes, in the order of ``Mixed.candidates``.

    default_nbytes: of all quantized linears at the run's own bits; weights: of all linears; skipped: of those that stay
    in full precision.
    """

    loss: dict[str, list[float]] = field(default_factory=dict)
    nbytes: dict[str, list[int]] = field(default_factory=dict)
    default_nbytes: int = 0
    weights: int = 0
    skipped: int = 0


def planned(
    model: nn.Module, structure: Structure, variant: Variant, ids: Tensor | None, device: torch.device
) -> tuple[Variant, list[str]]:
    """The variant with its plan computed, where it is one of mixed precision without; notes for the record.

    Raises:
        InputError: the budget cannot be met.
    """
    mixed = variant.allocation
    if not isinstance(mixed, Mixed) or mixed.plan or not variant.rounding.quantizes:
        return variant, []
    assert ids is not None, "the walk has asked for calibration tokens"
    try:
        choices = _measure(model, structure, variant, mixed, ids, device)
    finally:
        model.to("cpu")  # some sensitivities run the whole model on the device
    capacity = _capacity(mixed, choices)
    chosen = choose(np.array(list(choices.loss.values())), np.array(list(choices.nbytes.values())), capacity)
    plan = {name: mixed.candidates[index] for name, index in zip(choices.loss, chosen, strict=True)}
    spent = sum(choices.nbytes[name][index] for name, index in zip(choices.loss, chosen, strict=True))
    return replace(variant, allocation=replace(mixed, plan=plan)), _notes(plan, choices, spent, capacity)


def _capacity(mixed: Mixed, choices: Choices) -> int:
    """Bytes that the quantized linears may take together."""
    fixed = choices.skipped * _SKIPPED_BITS // 8
    if mixed.budget is None:
        capacity = choices.default_nbytes
        given = f"allocation.budget=null (the run's bits: {_bits(capacity + fixed, choices):.3f})"
    else:
        capacity = int(mixed.budget * choices.weights / 8) - fixed
        given = f"allocation.budget={mixed.budget:g}"
    least, most = (sum(map(pick, choices.nbytes.values())) for pick in (min, max))
    if capacity < least:
        low, high = (_bits(total + fixed, choices) for total in (least, most))
        raise InputError(
            f"{given}: candidates={mixed.candidates} reach {low:.3f} to {high:.3f} bits per weight on this model"
        )
    return capacity


def _measure(
    model: nn.Module, structure: Structure, variant: Variant, mixed: Mixed, ids: Tensor, device: torch.device
) -> Choices:
    """Round every linear at every candidate, on full-precision statistics, block by block."""
    choices = Choices()
    inputs = block_inputs(model, structure, ids.split(max(1, _BATCH_TOKENS // ids.shape[1])))
    sensitivity = _sensitivity(model, structure, mixed, ids, device)
    for block in track(structure.blocks, stage="plan", unit="block"):
        module = copy.deepcopy(block.module).to(device)
        with capturing(module, block, sites=[site.name for site in block.sites], device=device) as capture:
            inputs.hidden = [run_block(module, h, inputs.call(block.index, h), device) for h in inputs.hidden]
        for site in block.sites:
            for name in site.linears:
                _try(block, name, module, variant, mixed, capture.stats[site.name], ids.numel(), sensitivity, choices)
        sensitivity.advance(block)
    return choices


def _sensitivity(
    model: nn.Module, structure: Structure, mixed: Mixed, ids: Tensor, device: torch.device
) -> Sensitivity:
    if mixed.sensitivity == "kl":
        return OneLinearDivergence(model, structure, ids[: mixed.samples], device)
    if mixed.sensitivity == "fisher":
        names = [f"{block.name}.{linear}" for block in structure.blocks for linear in block.linears]
        wanted = [name for name in names if mixed.quantizes(name)]
        return FisherError(fisher_information(model, wanted, ids, device=device))
    return OutputError(mixed.relative)


def _try(
    block: Block,
    name: str,
    module: nn.Module,
    variant: Variant,
    mixed: Mixed,
    stats: SiteStats,
    tokens: int,
    sensitivity: Sensitivity,
    choices: Choices,
) -> None:
    """Add one linear's loss and bytes at every candidate to ``choices``."""
    full_name = f"{block.name}.{name}"
    linear = module.get_submodule(name)
    assert isinstance(linear, nn.Linear)
    weight = linear.weight.detach().float()
    choices.weights += weight.numel()
    if not mixed.quantizes(full_name):
        choices.skipped += weight.numel()
        return
    rounded, nbytes = dict[int, Tensor](), dict[int, int]()
    for bits in {*mixed.candidates, variant.format.bits}:
        format = replace(variant.format, bits=bits).for_shape(*weight.shape)
        grid = Grid(format, variant.range.for_linear(name))
        quantized = grid.nearest(weight, stats.curvature if stats.count else None)
        rounded[bits] = quantized.dequantize()
        nbytes[bits] = quantized.nbytes + variant.rounding.index_bytes(grid, weight.shape[1])
    trials = [Trial(block, name, weight, rounded[bits], stats, tokens) for bits in mixed.candidates]
    choices.loss[full_name] = [sensitivity.loss(trial) for trial in trials]
    choices.nbytes[full_name] = [nbytes[bits] for bits in mixed.candidates]
    choices.default_nbytes += nbytes[variant.format.bits]


def _bits(nbytes: int, choices: Choices) -> float:
    return 8 * nbytes / choices.weights


def _notes(plan: Mapping[str, int], choices: Choices, spent: int, capacity: int) -> list[str]:
    """What was decided: the counts, and the bits of every linear."""
    fixed = choices.skipped * _SKIPPED_BITS // 8
    counts = ", ".join(f"{count} linears at {bits}" for bits, count in sorted(Counter(plan.values()).items()))
    amounts = f"{_bits(spent + fixed, choices):.3f} of {_bits(capacity + fixed, choices):.3f} bits per weight"
    return [f"mixed precision: {amounts}; {counts} bits", f"plan: {json.dumps(plan)}"]
