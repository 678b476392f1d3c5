"""Quantizing one decoder block for one variant."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from quantbench.errors import QuantizationError
from quantbench.formats import QuantizedWeight
from quantbench.methods.allocation import Kept
from quantbench.methods.grid import Grid
from quantbench.methods.histogram import Histogram
from quantbench.methods.input_sample import InputSample
from quantbench.methods.rounding.tuner import BlockTuner, TunableScale, TunableTransform, TunableWeight
from quantbench.methods.stats import SiteStats
from quantbench.models.attention import remove_caches_, set_caches_
from quantbench.models.biases import add_bias_
from quantbench.models.capture import Capture
from quantbench.models.folds import takes_shift
from quantbench.models.layer_error import layer_error
from quantbench.models.linear import InputQuantLinear, QuantLinear, linear_at
from quantbench.models.online import CHILD, OnlineAffine, attach_, carry_rotation_
from quantbench.models.packed import quantized_linear
from quantbench.models.scaling import BlockScaling, finite_weight, quantized, scaled_together
from quantbench.models.structure import Block, Site
from quantbench.models.tune import TunedBlock, TuningData, tune

if TYPE_CHECKING:
    from quantbench.methods.variant import Variant
    from quantbench.models.branch import VariantResult

_LOG = logging.getLogger(__name__)

_LEARNED_SCALES = ("attention_in", "attention_out", "mlp_in")  # OmniQuant's; a gate or activation precedes mlp_out
_MAX_DROPPED = 0.01  # more non-finite tokens than this say that the model, not a token, is broken


class BlockSolver:
    """Transforms and rounds the linears of one block (``module``, a copy) and writes what changed into ``result``."""

    def __init__(
        self,
        block: Block,
        module: nn.Module,
        variant: Variant,
        capture: Capture | None,
        result: VariantResult,
        device: torch.device,
        *,
        fisher: Mapping[str, Tensor] | None = None,
        keep_latent: bool = False,
    ) -> None:
        """fisher: mean squared gradients of the model's weights [out, in], by the linear's full name.

        keep_latent: whether the result keeps what was rounded.
        """
        self.keep_latent = keep_latent
        self.block, self.module, self.variant, self.result, self.device = block, module, variant, result, device
        names = [name for site in block.sites for name in site.linears if self._full_name(name) in (fisher or {})]
        self.fisher = {name: fisher[self._full_name(name)] for name in names} if fisher else {}
        self.capture = capture or Capture()
        self.stats: dict[str, SiteStats] = dict(self.capture.stats)
        self.notes: list[str] = []

    def transform(self, samples: Mapping[str, InputSample]) -> bool:
        """Fit the transform of every site on the block as it is, then fold all of them in.

        samples: of what each site reads, where the transform looks at that. Returns whether all statistics still hold:
        what a shift makes of them cannot be told from them.
        """
        scaling = BlockScaling(
            self.block, self.module, self.variant, self.capture, self.stats, self.fisher, self.device
        )
        return scaling.transform(samples)

    def quantize_inputs(self, seen: Mapping[str, Histogram]) -> None:
        """Let every linear quantize what it reads, as it will at run time, before weights are rounded for that.

        seen: histograms of the inputs by the site's name, where the activations' ranges are calibrated.
        """
        for site in self.block.sites:
            if site.name in seen and not seen[site.name].total:
                self.notes.append(f"{self.block.name}.{site.name}: no calibration token reached it, inputs are dynamic")
            for name in site.linears:
                histogram = seen.get(site.name)
                quantizer = self.variant.activation.quantizer(self._full_name(name), site.role, histogram)
                if quantizer is not None:
                    self.result.inputs[self._full_name(name)] = quantizer
                    _replace(self.module, name, InputQuantLinear(self._linear(name), quantizer))

    def round(self, sites: Sequence[str], stats: Mapping[str, SiteStats]) -> None:
        """Round the linears of the named sites; those that share inputs and a grid are solved as one matrix."""
        if not self.variant.rounding.quantizes:
            return
        for site in self.block.sites:
            if site.name not in sites:
                continue
            if site.name in stats:
                self._check(site, stats[site.name])
            for grid, names in self._stacks(site):
                self._round_together(site, names, grid, stats.get(site.name))

    def _stacks(self, site: Site) -> list[tuple[Grid, list[str]]]:
        """Linears of a site with one grid, which are solved as one matrix where the format's rows are independent."""
        stacks: list[tuple[Grid, list[str]]] = []
        for name in self._quantized(site):
            grid = self._grid(name)
            stack = next((names for known, names in stacks if known == grid), None)
            if stack is None or not grid.format.rows_independent:
                stacks.append((grid, [name]))
            else:
                stack.append(name)
        return stacks

    def _grid(self, name: str) -> Grid:
        format = self.variant.allocation.format_of(self._full_name(name), self.variant.format)
        return Grid(format.for_shape(*self._linear(name).weight.shape), self.variant.range.for_linear(name))

    def _round_together(self, site: Site, names: list[str], grid: Grid, stats: SiteStats | None) -> None:
        weights = [self._weight(name) for name in names]
        stats = self._with_fisher(stats, names)
        label = self._full_name(names[0]) if len(names) == 1 else f"{self.block.name}.{{{','.join(names)}}}"
        try:
            kept = self._keep(weights, grid, stats)
            rounded = self.variant.rounding.round(torch.cat(weights), grid, stats, keep=kept.mask)
        except ValueError as error:
            raise QuantizationError(f"{label}: {error}") from error
        self.notes += [f"{label}: {note}" for note in (*kept.notes, *rounded.notes)]
        parts = rounded.weight.split_rows([len(w) for w in weights])
        for name, weight, part in zip(names, weights, parts, strict=True):
            self._install(name, part, weight, stats)

    def _with_fisher(self, stats: SiteStats | None, names: list[str]) -> SiteStats | None:
        """A site's statistics with the Fisher information of the named linears, stacked, where there is any."""
        if stats is None or not self.fisher:
            return stats
        return replace(stats, fisher=torch.cat([self.fisher[name] for name in names]).to(self.device))

    def tune(self, data: TuningData) -> None:
        """Tune the linears of all sites together on the block's output, then round them as was learned."""
        tuner = self.variant.rounding
        assert isinstance(tuner, BlockTuner)
        weights: dict[str, TunableWeight] = {}
        for site in self.block.sites:
            stats = self.stats.get(site.name)
            if stats is not None:
                self._check(site, stats)
            for name in self._quantized(site):
                weights[name] = self._tunable(name, tuner, self._with_fisher(stats, [name]))
        scales, transforms = self._tunable_scales(tuner), self._tunable_transforms(tuner)
        tuned = TunedBlock(self.block, self.module, self.device, weights, scales, transforms)
        tune(tuned, data, tuner, tuner.schedule(len(data.samples()), self.variant.format))
        tuned.fold_()
        rescaled = {name for site, _ in scales if site.fold for name in site.fold.sites}
        rescaled |= {site.name for site, _ in transforms}
        for site in self.block.sites:
            # a learned scale or shift changes a site's inputs, so that what was seen of them no longer holds
            stats = None if site.name in rescaled else self.stats.get(site.name)
            for name in self._quantized(site):
                full = tuned.full_precision(name)
                self._install(name, weights[name].quantized(full), full, stats)

    def _tunable(self, name: str, tuner: BlockTuner, stats: SiteStats | None) -> TunableWeight:
        weight, grid, label = self._weight(name), self._grid(name), self._full_name(name)
        try:
            kept = self._keep([weight], grid, stats)
            self.notes += [f"{label}: {note}" for note in kept.notes]
            return tuner.tunable(weight, grid, stats, keep=kept.mask)
        except ValueError as error:
            raise QuantizationError(f"{label}: {error}") from error

    def _tunable_scales(self, tuner: BlockTuner) -> list[tuple[Site, TunableScale]]:
        scales = []
        for sites in scaled_together(self.block, self.variant, self.stats):
            site, weights = sites[0], [self._weight(name) for site in sites for name in site.linears]
            assert site.fold is not None
            stats = SiteStats.merged([self.stats[site.name] for site in sites])
            shift = takes_shift(self.module, site)
            if site.role in _LEARNED_SCALES:
                scale = tuner.tunable_scale(weights, stats, site.fold.rows, shift=shift)
                scales += [] if scale is None else [(site, scale)]
        return scales

    def _tunable_transforms(self, tuner: BlockTuner) -> list[tuple[Site, TunableTransform]]:
        """Of the sites whose linears are all quantized: the weights of all must undo one change of basis."""
        transforms = []
        for site in self.block.sites:
            if site.name in self.stats and len(self._quantized(site)) == len(site.linears):
                weights = [self._weight(name) for name in site.linears]
                transform = tuner.tunable_transform(weights, self.stats[site.name])
                transforms += [] if transform is None else [(site, transform)]
        return transforms

    def _install(self, name: str, weight: QuantizedWeight, full: Tensor, stats: SiteStats | None) -> None:
        """Put a quantized linear in the place of the one in full precision, and into the result.

        full: what was rounded; stats: of the inputs it reads, where they are known.
        """
        self.result.layers[self._full_name(name)] = layer_error(full, weight, stats)
        if self.keep_latent:
            self.result.latent[self._full_name(name)] = full.to("cpu")
        linear = self._linear(name)
        inputs = self.result.inputs.get(self._full_name(name))
        quantized = QuantLinear(weight, linear.bias, dtype=linear.weight.dtype, inputs=inputs)
        _replace(self.module, name, quantized.to(self.device))
        if isinstance(online := getattr(quantized, CHILD, None), OnlineAffine):
            self.result.online[self._full_name(name)] = online
        self.result.weights[self._full_name(name)] = weight.to("cpu")

    def _keep(self, weights: list[Tensor], grid: Grid, stats: SiteStats | None) -> Kept:
        """The weights to keep of matrices that are solved together; each is chosen from as if it stood alone."""
        masks, notes, start = [], dict[str, None](), 0
        for weight in weights:
            own = None if stats is None else stats.of_rows(slice(start, start + len(weight)))
            mask, said = self.variant.allocation.keep(weight, grid, own)
            masks += [] if mask is None else [mask]
            notes |= dict.fromkeys(said)
            start += len(weight)
        return Kept(torch.cat(masks) if masks else None, tuple(notes))

    def _quantized(self, site: Site) -> list[str]:
        return quantized(self.block, site, self.variant)

    def finish(self) -> None:
        """Keep the notes, and every parameter that is not a quantized weight and differs from the original block's."""
        if self.notes:
            more = f" (and {len(self.notes) - 1} more)" if len(self.notes) > 1 else ""
            _LOG.warning("%s%s", self.notes[0], more)
        self.result.notes += self.notes
        originals = dict(self.block.module.named_parameters())
        for name, parameter in self.module.named_parameters():
            value = parameter.detach().cpu()
            if name not in originals or not torch.equal(value, originals[name].detach().cpu()):
                self.result.parameters[self._full_name(name)] = value

    def _weight(self, name: str) -> Tensor:
        return finite_weight(self.module, name, self._full_name(name))

    def _linear(self, name: str) -> nn.Linear:
        return linear_at(self.module, name)

    def _full_name(self, name: str) -> str:
        return f"{self.block.name}.{name}"

    def _check(self, site: Site, stats: SiteStats) -> None:
        if not stats.dropped:
            return
        label, seen = f"{self.block.name}.{site.name}", stats.dropped + stats.count
        if stats.dropped > _MAX_DROPPED * seen:
            raise QuantizationError(f"{label}: {stats.dropped} of {seen} calibration tokens hold NaN or Inf here")
        self.notes.append(f"{label}: {stats.dropped} calibration tokens with NaN or Inf left out")


def _replace(root: nn.Module, name: str, module: nn.Module) -> None:
    carry_rotation_(root.get_submodule(name), module)
    root.set_submodule(name, module)


def apply_result(model: nn.Module, result: VariantResult, *, execution: str = "fake") -> Callable[[], None]:
    """Put a variant into ``model``: quantized linears, inputs and caches, changed parameters. Returns what undoes it.

    execution: ``fake`` multiplies with dequantized weights, ``packed`` with codes as they are stored.

    Raises:
        QuantizationError: a weight has no packed execution; the model is as it was.
    """
    added = [_add_missing_bias(model, name) for name in result.parameters]
    modules = {name: linear_at(model, name) for name in result.weights.keys() | result.inputs.keys()}
    replacements: dict[str, nn.Module] = {
        name: InputQuantLinear(modules[name], inputs) for name, inputs in result.inputs.items()
    }
    for name, weight in result.weights.items():
        inputs = result.inputs.get(name)
        try:
            replacements[name] = quantized_linear(weight, modules[name], execution=execution, name=name, inputs=inputs)
        except QuantizationError:
            for remove in filter(None, added):
                remove()
            raise
    parameters: list[tuple[nn.Parameter, Tensor]] = []
    for name, replacement in replacements.items():
        if name in result.online:
            attach_(replacement, result.online[name])
        _replace(model, name, replacement)
    for name, value in result.parameters.items():
        parameter = model.get_parameter(name)
        parameters.append((parameter, parameter.data))
        parameter.data = value.to(parameter.device)
    set_caches_(model, result.caches)

    def undo() -> None:
        remove_caches_(model)
        for parameter, value in parameters:
            parameter.data = value
        for name, module in modules.items():
            model.set_submodule(name, module)
        for remove in filter(None, added):
            remove()

    return undo


def _add_missing_bias(model: nn.Module, parameter: str) -> Callable[[], None] | None:
    """Make room for a bias that the transform has added; returns what takes it away again."""
    name, _, last = parameter.rpartition(".")
    module = model.get_submodule(name)
    return add_bias_(module) if last == "bias" and getattr(module, "bias", None) is None else None
