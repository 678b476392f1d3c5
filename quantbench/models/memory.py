"""How much memory a walk takes, so that variants that would not fit together are not tried together."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quantbench.methods.allocation import Uniform
from quantbench.methods.rounding.tuner import BlockTuner
from quantbench.methods.transform.base import SiteScaling
from quantbench.methods.variant import Variant
from quantbench.models.structure import Block, Structure

_USABLE = 0.8  # of what is free: an estimate is no promise
_GROUP_BYTES = 8  # scale and zero-point, fp32
_OUTLIER_BYTES = 0.5  # a weight, where an allocation may keep some: 5 % of them with index and value
_FP32 = 4
_SOLVER_COPIES = 4  # of the largest stack of weights in fp32: weights, moving columns, errors, what fits ranges


@dataclass(frozen=True)
class Bytes:
    """An amount on the host and one on the device; where the device is the CPU all of it is on the host."""

    host: int
    device: int

    def __add__(self, other: "Bytes") -> "Bytes":
        return Bytes(self.host + other.host, self.device + other.device)

    def fits(self, free: "Bytes") -> bool:
        """Whether there is room for it."""
        return self.host <= free.host and self.device <= free.device


@dataclass(frozen=True)
class MemoryPlan:
    """parts: which variants go together, as indices; needed: the most that a part takes; free: what may be taken."""

    parts: list[list[int]]
    needed: Bytes
    free: Bytes

    def __str__(self) -> str:
        places = [("host", self.needed.host, self.free.host), ("device", self.needed.device, self.free.device)]
        amounts = [f"{place} {_gib(need)} of {_gib(free)} free" for place, need, free in places if need]
        return f"{sum(map(len, self.parts))} variants in {len(self.parts)} walk(s): {', '.join(amounts)}"


def plan_memory(
    structure: Structure,
    variants: Sequence[Variant],
    ids: Tensor | None,
    *,
    dtype: torch.dtype,
    device: torch.device,
    free: Bytes | None = None,
) -> MemoryPlan:
    """Split variants into walks that fit beside the loaded model; a variant that fits nowhere gets a walk of its own.

    free: what may be taken; default: most of what is free now.
    """
    free = free or _free(device)
    tokens = 0 if ids is None else ids.numel()
    parts, needed, most = list[list[int]](), Bytes(0, 0), Bytes(0, 0)
    for index, variant in enumerate(variants):
        own, common = _own(structure, variant, tokens, dtype), _common(structure, variants, tokens, dtype)
        if device.type == "cpu":
            own, common = (Bytes(b.host + b.device, 0) for b in (own, common))
        if parts and (needed + own).fits(free):
            parts[-1].append(index)
            needed += own
        else:
            parts.append([index])
            needed = common + own
        most = Bytes(max(most.host, needed.host), max(most.device, needed.device))
    return MemoryPlan(parts, most, free)


def _own(structure: Structure, variant: Variant, tokens: int, dtype: torch.dtype) -> Bytes:
    """What a variant adds: its quantized weights, and its hidden states where it has its own."""
    weights = sum(_linear(block, name).weight.numel() for block in structure.blocks for name in block.linears)
    group = variant.format.group_size
    per_weight = 1 + (_GROUP_BYTES / group if group else 0)
    if not isinstance(variant.allocation, Uniform):
        per_weight += _OUTLIER_BYTES
    if variant.training.needs_latent:
        per_weight += _FP32
    own_states = variant.walks_tokens and variant.statistics == "propagate"
    return Bytes(int(weights * per_weight) + own_states * tokens * _width(structure) * dtype.itemsize, 0)


def _common(structure: Structure, variants: Sequence[Variant], tokens: int, dtype: torch.dtype) -> Bytes:
    """What one walk needs whatever the number of variants."""
    states = tokens * _width(structure) * dtype.itemsize
    shared = any(v.statistics == "fp" or v.needs_pairs or isinstance(v.rounding, BlockTuner) for v in variants)
    host = (2 if shared else 1) * states  # the inputs of a block, and its outputs as they come
    if any(isinstance(v.transform, SiteScaling) and v.transform.replayed_batches != 0 for v in variants):
        host += 4 * states  # what attention and MLP are called with, and what they give
    if any(v.needs_fisher for v in variants):
        host += sum(_linear(b, n).weight.numel() for b in structure.blocks for n in b.linears) * _FP32
    return Bytes(host, max(map(_block_bytes, structure.blocks)))


def _block_bytes(block: Block) -> int:
    """Two copies of a block, the statistics of its sites with what is computed from them, one stack being solved."""
    parameters = sum(p.numel() * p.element_size() for p in block.module.parameters())
    sites = [[_linear(block, name) for name in site.linears] for site in block.sites]
    statistics = sum(3 * linears[0].in_features ** 2 * _FP32 for linears in sites)
    stack = max(sum(linear.weight.numel() for linear in linears) for linears in sites)
    return 2 * parameters + statistics + _SOLVER_COPIES * stack * _FP32


def _width(structure: Structure) -> int:
    return max(_linear(structure.blocks[0], site.linears[0]).in_features for site in structure.blocks[0].sites[:1])


def _linear(block: Block, name: str) -> nn.Linear:
    linear = block.module.get_submodule(name)
    assert isinstance(linear, nn.Linear)
    return linear


def _free(device: torch.device) -> Bytes:
    host, accelerator = free_memory(torch.device("cpu")), free_memory(device)
    return Bytes(*(int((2**62 if known is None else known) * _USABLE) for known in (host, accelerator)))


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be allocated; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None


def _gib(amount: int) -> str:
    return f"{amount / 2**30:.1f} GiB"
