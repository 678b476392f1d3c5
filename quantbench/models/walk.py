"""The walk: quantize a model block by block, for one variant or several in the same pass."""

import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from quantbench.errors import QuantizationError
from quantbench.methods.histogram import Histogram
from quantbench.methods.rounding.tuner import BlockTuner
from quantbench.methods.transform.base import NoTransform
from quantbench.methods.variant import Variant
from quantbench.models.attention import set_caches_
from quantbench.models.branch import Branch, VariantResult, elapsed
from quantbench.models.capture import BlockInputs, Capture, block_inputs
from quantbench.models.fisher import fisher_information
from quantbench.models.passes import (
    Twin,
    advance,
    calls_wanted,
    captured,
    captured_stats,
    copy_of,
    outputs_of,
    tuning_data,
)
from quantbench.models.paused import fits, solve_in_one_pass
from quantbench.models.plan import planned
from quantbench.models.site_inputs import histograms, samples
from quantbench.models.solve import BlockSolver
from quantbench.models.statistics_cache import PrefixKeys, StatisticsCache
from quantbench.models.structure import Block, Structure
from quantbench.progress import track

BATCH_TOKENS = 4096


def quantize(
    model: nn.Module,
    structure: Structure,
    variants: Sequence[Variant],
    ids: Tensor | None,
    *,
    device: torch.device,
) -> list[VariantResult]:
    """Quantize every variant in one walk over the blocks; ``model`` (on the host) is left unchanged.

    As :func:`quantize_each`, for when all must succeed.

    Raises:
        ValueError: a variant needs calibration and ``ids`` is None.
        QuantizationError: weights or activations that no stated rule covers.
    """
    results = []
    for outcome in quantize_each(model, structure, variants, ids, device=device):
        if isinstance(outcome, Exception):
            raise outcome
        results.append(outcome)
    return results


def quantize_each(
    model: nn.Module,
    structure: Structure,
    variants: Sequence[Variant],
    ids: Tensor | None,
    *,
    device: torch.device,
    cache: StatisticsCache | None = None,
    keep_latent: bool = False,
) -> list[VariantResult | Exception]:
    """Quantize every variant in one walk; one that fails leaves the walk, and its error stands in its place.

    One block at a time is on ``device``; hidden states stay on the host. ids: calibration tokens [samples, seqlen],
    None when no variant needs any. Variants with ``statistics=fp`` share one capture of each block, or what ``cache``
    has of it; those with ``propagate`` advance side by side, each on its own hidden states, beside those of full
    precision where a variant compares the two. keep_latent: for every variant, which takes as much memory as the
    linears.

    Raises:
        ValueError: a variant needs calibration and ``ids`` is None.
    """
    if ids is None and any(v.needs_calibration for v in variants):
        raise ValueError("calibration tokens are required by a variant")
    branches = [Branch(variant, keep_latent or variant.training.needs_latent) for variant in variants]
    for branch in branches:
        with branch.own_work(device):
            branch.variant, branch.result.notes = planned(model, structure, branch.variant, ids, device)
    walk = _Walk(branches, device, cache)
    if ids is not None and any(v.walks_tokens for v in variants):
        walk.enter(model, structure, ids)
    for block in track(structure.blocks, stage="quantize", unit="block"):
        walk.quantize_block(block, last=block is structure.blocks[-1])
        if not walk.live:
            break
    return [branch.outcome for branch in branches]


class _Walk:
    """The variants between two blocks.

    shared: hidden states in full precision, None where no one looks at them; behind: blocks that these have not been
    through yet, because statistics of the blocks were cached.
    """

    def __init__(self, branches: list[Branch], device: torch.device, cache: StatisticsCache | None) -> None:
        self.branches, self.device, self.cache = branches, device, cache
        self.shared: BlockInputs | None = None
        self.behind: list[Block] = []
        self.keys: PrefixKeys | None = None
        self.fisher: Mapping[str, Tensor] | None = None

    @property
    def live(self) -> list[Branch]:
        """Those that take part."""
        return [branch for branch in self.branches if branch.error is None]

    def enter(self, model: nn.Module, structure: Structure, ids: Tensor) -> None:
        """Everything before the first block, for calibration tokens ``ids`` [samples, seqlen]."""
        shared = block_inputs(model, structure, ids.split(max(1, BATCH_TOKENS // ids.shape[1])))
        variants = [branch.variant for branch in self.live]
        for branch in self.live:
            if branch.variant.walks_tokens and branch.variant.statistics == "propagate":
                branch.inputs = BlockInputs(list(shared.hidden), shared.calls)
        tuned = [(v.rounding, v.format) for v in variants if isinstance(v.rounding, BlockTuner)]
        for size in {tuner.schedule(len(ids), format).batch_size for tuner, format in tuned}:
            shared.calls |= block_inputs(model, structure, [ids[:size]]).calls
        if tuned or any(b.shares_statistics or b.shares_inputs or b.variant.needs_pairs for b in self.live):
            self.shared = shared
        if self.cache is not None and any(branch.shares_statistics for branch in self.live):
            self.keys = PrefixKeys(model, structure, ids, batch=BATCH_TOKENS, device=self.device)
        self._learn_fisher(model, structure, ids)

    def _learn_fisher(self, model: nn.Module, structure: Structure, ids: Tensor) -> None:
        """Squared gradients of every weight that a variant which asks for them quantizes."""
        asking, start = [branch for branch in self.live if branch.variant.needs_fisher], time.perf_counter()
        linears = [name for name in structure.linears if any(b.variant.allocation.quantizes(name) for b in asking)]
        if not linears:
            return
        try:
            self.fisher = fisher_information(model, linears, ids, device=self.device)
        except QuantizationError as error:
            for branch in asking:
                branch.leave(error)
        for branch in asking:
            branch.result.shared_seconds += elapsed(start, self.device)

    def quantize_block(self, block: Block, *, last: bool) -> None:
        """Quantize one block for every variant and turn its inputs into its outputs (``last``: nobody reads those)."""
        start, common, twin, outputs = time.perf_counter(), None, None, list[Tensor]()
        sharing = [branch for branch in self.live if branch.shares_statistics]
        tuning = [branch for branch in self.live if isinstance(branch.variant.rounding, BlockTuner)]
        key = None if self.keys is None else self.keys.of(block)
        if self.shared is not None:
            common = self._cached(key, sharing)
            comparing = any(branch.variant.needs_pairs or branch.shares_inputs for branch in self.live)
            if tuning or (sharing and common is None) or comparing:
                self._catch_up()
                twin = Twin(copy_of(block, self.device), self.shared, {})
            if twin is not None and sharing and common is None:
                variants = [branch.variant for branch in sharing]
                common = captured(block, twin.module, variants, self.shared, self.device, outputs=outputs)
                if self.cache is not None and key is not None:
                    self.cache.write(key, common.stats)
            elif tuning and twin is not None:
                outputs = outputs_of(block, twin.module, self.shared, self.device)
            for stats in common.stats.values() if common else ():
                stats.known = {} if len(sharing) > 1 else None
            for branch in {id(b): b for b in (*sharing, *tuning)}.values():
                branch.result.shared_seconds += elapsed(start, self.device)
        for branch in self.live:
            with branch.own_work(self.device):
                capture = common if branch in sharing else None
                self._quantize_one(branch, block, capture, twin, outputs, last=last)
        if twin is not None and not last:
            twin.inputs.hidden = outputs or outputs_of(block, twin.module, twin.inputs, self.device)
        elif self.shared is not None:
            self.behind.append(block)

    def _cached(self, key: str | None, sharing: Sequence[Branch]) -> Capture | None:
        """What an earlier walk collected of a block, where that is all that the variants ask for."""
        if self.cache is None or key is None or not sharing or calls_wanted([b.variant for b in sharing]) != 0:
            return None
        stats = self.cache.read(key, self.device)
        return None if stats is None else Capture(stats)

    def _catch_up(self) -> None:
        """Take the shared hidden states through the blocks that they are behind."""
        assert self.shared is not None
        for block in self.behind:
            self.shared.hidden = outputs_of(block, copy_of(block, self.device), self.shared, self.device)
        self.behind.clear()

    def _quantize_one(
        self,
        branch: Branch,
        block: Block,
        capture: Capture | None,
        twin: Twin | None,
        outputs: list[Tensor],
        *,
        last: bool,
    ) -> None:
        """Quantize one block for one variant. capture: what it shares; outputs: of the block in full precision."""
        variant, inputs, device = branch.variant, branch.inputs, self.device
        module = copy_of(block, device)
        if inputs is not None:  # what full precision is looked at for has no such cache yet
            _quantize_cache(branch, block, module)
        in_sequence = inputs is not None and variant.rounding.sequential
        on_the_way = in_sequence and isinstance(variant.transform, NoTransform)  # collected while rounding
        if inputs is not None and variant.needs_statistics and not on_the_way:
            paired = twin if variant.needs_pairs and not in_sequence else None
            capture = captured(block, module, [variant], inputs, device, twin=paired)
        fisher = self.fisher if variant.needs_fisher else None
        solver = BlockSolver(
            block, module, variant, capture, branch.result, device, fisher=fisher, keep_latent=branch.keep_latent
        )
        self._prepare(solver, None if in_sequence else capture, twin, inputs)
        if inputs is None:
            _quantize_cache(branch, block, module)
        if isinstance(variant.rounding, BlockTuner):
            assert twin is not None
            solver.tune(tuning_data(block, variant.rounding, twin, inputs or twin.inputs, outputs, device))
        elif inputs is not None and in_sequence:
            _round_in_sequence(block, module, solver, inputs, device, twin if variant.needs_pairs else None, last=last)
        else:
            solver.round([site.name for site in block.sites], solver.stats)
        solver.finish()
        if inputs is not None and not in_sequence and not last:
            advance(block, module, inputs, device)

    def _prepare(
        self, solver: BlockSolver, capture: Capture | None, twin: Twin | None, own: BlockInputs | None
    ) -> None:
        """Transform a block, then let its linears quantize what they read.

        capture: None where statistics are collected as the block is rounded; own: the variant's inputs of the block.
        """
        block, module, variant = solver.block, solver.module, solver.variant
        inputs = own or (None if twin is None else twin.inputs)
        if inputs is None:  # nothing is looked at
            solver.transform({})
            solver.quantize_inputs({})
            return
        looks = variant.transform.needs_inputs
        holds = solver.transform(samples(block, module, inputs, self.device) if looks else {})
        if not holds and capture is not None:
            paired = twin.transformed(module) if twin and variant.needs_pairs else None
            solver.stats = captured_stats(block, module, list(solver.stats), inputs, self.device, twin=paired).stats
        seen: dict[str, Histogram] = {}
        if variant.activation.needs_inputs:
            common = twin is not None and inputs is twin.inputs and isinstance(variant.transform, NoTransform)
            seen = twin.histograms if twin is not None and common else seen  # of all variants that transform nothing
            seen |= {} if seen else histograms(block, module, inputs, self.device)
        solver.quantize_inputs(seen)


def _quantize_cache(branch: Branch, block: Block, module: nn.Module) -> None:
    """Let a variant's copy of a block attend to keys and values as they will be stored."""
    if branch.variant.kv_cache.quantizes:
        assert block.attention is not None, "checks.check_model refuses such models"
        set_caches_(module, {block.attention: branch.variant.kv_cache})
        branch.result.caches[f"{block.name}.{block.attention}"] = branch.variant.kv_cache


def _round_in_sequence(
    block: Block,
    module: nn.Module,
    solver: BlockSolver,
    inputs: BlockInputs,
    device: torch.device,
    twin: Twin | None,
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
    paired = None if twin is None else twin.transformed(module)
    for sites in _in_sequence(block):
        solver.round(sites, captured_stats(block, module, sites, inputs, device, twin=paired).stats)
    if not last:
        advance(block, module, inputs, device)


def _in_sequence(block: Block) -> list[list[str]]:
    """Site names in the steps of true-sequential quantization; the experts of a block take each step together."""
    steps: dict[str, list[str]] = {}
    for site in block.sites:
        steps.setdefault(site.role, []).append(site.name)
    return list(steps.values())
