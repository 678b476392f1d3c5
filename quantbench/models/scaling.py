"""Fitting a transform that scales and shifts the inputs of sites to one block, and folding it in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from quantbench.errors import QuantizationError
from quantbench.methods.grid import Grid
from quantbench.methods.histogram import Histogram
from quantbench.methods.input_sample import InputSample
from quantbench.methods.range.minmax import MinMax
from quantbench.methods.stats import SiteStats
from quantbench.methods.transform.base import SiteProblem, SiteScaling
from quantbench.models.biases import add_site_biases_, can_shift
from quantbench.models.capture import Capture
from quantbench.models.folds import Fold, scale_site_, tied_mean
from quantbench.models.linear import linear_at
from quantbench.models.module_error import ModuleError
from quantbench.models.structure import Block, Site

if TYPE_CHECKING:
    from quantbench.methods.variant import Variant


class BlockScaling:
    """A block (``module``, a copy) with what a transform is fitted on: ``stats`` and ``fisher`` follow what it does."""

    def __init__(
        self,
        block: Block,
        module: nn.Module,
        variant: Variant,
        capture: Capture,
        stats: dict[str, SiteStats],
        fisher: dict[str, Tensor],
        device: torch.device,
    ) -> None:
        self.block, self.module, self.variant, self.capture = block, module, variant, capture
        self.stats, self.fisher, self.device = stats, fisher, device

    def transform(self, samples: Mapping[str, InputSample]) -> bool:
        """Fit every site on the block as it is, then fold all of them in; False where something was shifted."""
        transform = self.variant.transform
        if not isinstance(transform, SiteScaling):
            return True
        changes: list[tuple[list[Site], Tensor, Tensor | None]] = []
        for sites in scaled_together(self.block, self.variant, self.stats):
            problem = self._problem(sites, [samples[site.name] for site in sites if site.name in samples])
            scale, shift = transform.site_scale(problem), transform.site_shift(problem)
            if scale is not None:
                changes.append((sites, scale, shift))
        for sites, scale, shift in changes:
            if shift is not None:
                add_site_biases_(self.module, sites[0])
            scale_site_(self.module, sites[0], scale, shift)
            for site in sites:
                self.stats[site.name] = self.stats[site.name].scaled(scale)
            self._scale_fisher(sites[0], scale)
        return all(shift is None for _, _, shift in changes)

    def _scale_fisher(self, site: Site, scale: Tensor) -> None:
        """Squared gradients after the weights were scaled: where w' = s w, dL/dw' = (dL/dw) / s."""
        fold, square = site.fold, scale.cpu().square()
        assert fold is not None
        for name in self.fisher.keys() & set(fold.consumers):
            self.fisher[name] = self.fisher[name] / square
        if fold.producer in self.fisher:
            assert fold.rows is not None
            divided = torch.ones(len(self.fisher[fold.producer])).index_copy(0, fold.rows.cpu(), square)
            self.fisher[fold.producer] = self.fisher[fold.producer] * divided[:, None]

    def _problem(self, sites: list[Site], samples: Sequence[InputSample]) -> SiteProblem:
        names = [(site, name) for site in sites for name in site.linears]
        stats, weights = [self.stats[site.name] for site, _ in names], [self._weight(name) for _, name in names]
        fold, module_error = sites[0].fold, self._module_error(sites)
        assert fold is not None

        def linear_error(replaced: Sequence[Tensor]) -> float:
            # each expert counts by the tokens that reached it
            errors = (s.count * s.output_error(r - w) for s, r, w in zip(stats, replaced, weights, strict=True))
            return sum(errors) / max(s.count for s in stats)

        return SiteProblem(
            weights=weights,
            stats=SiteStats.merged([self.stats[site.name] for site in sites]),
            grid=Grid(self.variant.format.for_shape(*weights[0].shape), MinMax()),
            linear_error=linear_error,
            module_error=module_error,
            tie=partial(tied_mean, fold=fold) if _is_tied(fold) else None,
            norm_fed=fold.norm_offset is not None,
            sample=InputSample.merged(samples) if samples else None,
            reads=[partial(self._read, site, name) for site, name in names],
            shiftable=can_shift(self.module, sites[0]),
            rounds_weights=self.variant.rounding.quantizes,
        )

    def _read(self, site: Site, name: str, inputs: Tensor, ends: Tensor) -> Tensor:
        """What a linear reads of ``inputs`` [tokens, in] at run time; ``ends`` [2, in]: the channels' extremes."""
        seen = Histogram()
        if self.variant.activation.needs_inputs:
            seen.add(torch.cat([inputs, ends]))
        quantizer = self.variant.activation.quantizer(f"{self.block.name}.{name}", site.role, seen)
        return inputs if quantizer is None else quantizer(inputs)

    def _module_error(self, sites: list[Site]) -> ModuleError | None:
        """Replays the module that a site feeds; one capture may serve variants that replay fewer of its calls."""
        assert isinstance(self.variant.transform, SiteScaling)
        parent, limit = sites[0].parent, self.variant.transform.replayed_batches
        if len(sites) > 1 or parent is None or not self.capture.calls.get(parent) or limit == 0:
            return None
        calls, outputs = self.capture.calls[parent][:limit], self.capture.outputs[parent][:limit]
        return ModuleError(self.module, sites[0], calls, outputs, self.device)

    def _weight(self, name: str) -> Tensor:
        return finite_weight(self.module, name, f"{self.block.name}.{name}")


def scaled_together(block: Block, variant: Variant, stats: Mapping[str, SiteStats]) -> list[list[Site]]:
    """Sites that share one fold (the experts behind a norm take one scale), where something gets quantized."""
    groups: dict[tuple[str, ...], list[Site]] = {}
    for site in block.sites:
        if site.fold is not None and site.name in stats:
            groups.setdefault(site.fold.sites, []).append(site)
    return [sites for sites in groups.values() if any(quantized(block, site, variant) for site in sites)]


def quantized(block: Block, site: Site, variant: Variant) -> list[str]:
    """The linears of a site whose weights are quantized."""
    return [name for name in site.linears if variant.allocation.quantizes(f"{block.name}.{name}")]


def finite_weight(module: nn.Module, name: str, label: str) -> Tensor:
    """The weight of a linear, fp32 [out, in].

    Raises:
        QuantizationError: it holds NaN or Inf.
    """
    weight = linear_at(module, name).weight.detach().float()
    if not bool(torch.isfinite(weight).all()):
        raise QuantizationError(f"{label}: the weights hold NaN or Inf")
    return weight


def _is_tied(fold: Fold) -> bool:
    return fold.rows is not None and len(fold.rows.unique()) < len(fold.rows)
