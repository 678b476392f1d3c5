"""The contract of the transform axis."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from quantbench.methods.component import Component
from quantbench.methods.grid import Grid
from quantbench.methods.input_sample import InputSample
from quantbench.methods.stats import SiteStats

Read = Callable[[Tensor, Tensor], Tensor]
OutputError = Callable[[Sequence[Tensor]], float]


class ReplayedError(Protocol):
    """An output error that takes long: above ``limit`` it may be anything above it."""

    def __call__(self, weights: Sequence[Tensor], limit: float = math.inf) -> float:
        """The error when the weights are replaced by the given ones."""


@dataclass(frozen=True)
class SiteProblem:
    """Everything a transform may know of the linears that one scale serves.

    weights: the linears that read the scaled tensor, fp32 [out_i, in] each; stats: of that tensor; grid: how the
    weights would be rounded (min-max range). linear_error: squared change of the linears' own outputs, mean over tokens
    and summed over outputs, when their weights are replaced by the given ones; module_error: the same for the output of
    the module they feed (attention, MLP), or None where the linears are all there is to score. tie: makes a scale
    equal over the channels that one producer row feeds (grouped-query attention), None where there is no such tie.
    norm_fed: whether a norm produces the scaled tensor (otherwise a linear does). sample: some of the tokens, where the
    transform ``needs_inputs``; reads: for each of the weights, what it reads at run time of given tokens, when their
    channels' extremes are the given ones; shiftable: whether a constant can be taken from the tensor;
    rounds_weights: whether the weights are quantized at all.
    """

    weights: Sequence[Tensor]
    stats: SiteStats
    grid: Grid
    linear_error: OutputError
    module_error: ReplayedError | None = None
    tie: Callable[[Tensor], Tensor] | None = None
    norm_fed: bool = True
    sample: InputSample | None = None
    reads: Sequence[Read] = ()
    shiftable: bool = False
    rounds_weights: bool = True

    def best_at_run_time(self, scales: Sequence[Tensor], shift: Tensor | None = None) -> Tensor:
        """The scale with which rounding inputs and weights changes the linears' outputs least, the first of equals.

        scales, shift [in]: inputs (x - shift) / scale meet weights times the scale. The error is squared, a mean over
        the sample.
        """
        assert self.sample is not None
        assert self.sample.ends is not None
        tokens, ends = self.sample.tokens, self.sample.ends
        if shift is not None:
            tokens, ends = tokens - shift, ends - shift
        outputs = [tokens @ weight.T for weight in self.weights]
        errors = [self._run_time_error(tokens, ends, outputs, scale) for scale in scales]
        return scales[errors.index(min(errors))]

    def _run_time_error(self, tokens: Tensor, ends: Tensor, outputs: Sequence[Tensor], scale: Tensor) -> float:
        error = 0.0
        for weight, read, output in zip(self.weights, self.reads, outputs, strict=True):
            rounded = weight * scale
            if self.rounds_weights:
                rounded = self.grid.nearest(rounded, None).dequantize()
            error += float((read(tokens / scale, ends / scale) @ rounded.T - output).square().sum())
        return error


@dataclass
class Transform(Component):
    """A rewrite that leaves the full-precision function as it is and makes the weights easier to round."""


@dataclass
class NoTransform(Transform):
    """The model as it is."""


@dataclass
class ModelTransform(Transform, ABC):
    """A rewrite of the whole model before its blocks are quantized, which all runs that have it can share."""

    @property
    def learns(self) -> bool:
        """Whether it is fitted, on calibration tokens, to what the run quantizes at run time."""
        return False


@dataclass
class SiteScaling(Transform, ABC):
    """A transform that divides a site's inputs by ``s`` [in] and multiplies the columns that read them by ``s``.

    It may take a constant from them before.

    The walk folds the division into what produces the inputs (a norm's gain, an earlier linear's rows); a site whose
    producer cannot absorb it is left alone.
    """

    @property
    def needs_calibration(self) -> bool:
        return True

    @property
    def replayed_batches(self) -> int | None:
        """How many calibration batches ``problem.module_error`` should replay (None: all; 0: it is not called)."""
        return 0

    @abstractmethod
    def site_scale(self, problem: SiteProblem) -> Tensor | None:
        """The scale s [in] (positive), or None to leave the site alone."""

    def site_shift(self, problem: SiteProblem) -> Tensor | None:
        """The constant [in] to take from the inputs before they are divided, None for none; biases give it back."""
        return None

    @property
    def adds_biases(self) -> bool:
        """Whether linears and norms may get biases that the model has no place for, from a shift."""
        return False
