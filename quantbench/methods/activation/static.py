"""Static quantization: one scale for all inputs of a linear, fixed by calibration."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from quantbench.formats import Format, GroupParams, QuantizedWeight
from quantbench.methods.activation.base import InputQuantizer, QuantizedInputs
from quantbench.methods.activation.dynamic import DynamicQuantizer
from quantbench.methods.histogram import Histogram
from quantbench.methods.range import KL, MSE, MinMax, Percentile
from quantbench.methods.range.base import CountedRange
from quantbench.methods.rounding.tuner import BlockTuner

if TYPE_CHECKING:
    from quantbench.methods.variant import Variant

CALIBRATIONS = ("minmax", "percentile", "mse", "kl")


@dataclass(frozen=True)
class StaticQuantizer(InputQuantizer):
    """Round to nearest with parameters that are known before (0-dimensional, on the host)."""

    format: Format
    params: GroupParams

    def __call__(self, x: Tensor) -> Tensor:
        return self.format.decode(self.format.encode(x.float(), self.params), self.params).to(x.dtype)

    def quantized(self, x: Tensor) -> QuantizedWeight:
        rows = x.reshape(-1, x.shape[-1])
        params = self.params.map(lambda t: t.to(x.device).expand(len(rows), 1))
        return QuantizedWeight(self.format, self.format.encode(rows.float(), params).to(torch.uint8), params)


@dataclass
class StaticActivation(QuantizedInputs):
    """One scale a linear for all tokens, from the histogram of what calibration saw of its inputs.

    calibration: ``minmax`` covers everything; ``percentile`` the central ``percent`` %; ``mse`` shrinks the interval to
    the least squared error, in 100 steps down to a fifth; ``kl`` is entropy calibration (see the ranges of weights of
    the same names). An expert that no calibration token reached quantizes dynamically.
    """

    calibration: str = "minmax"
    percent: float = 99.99

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.calibration not in CALIBRATIONS:
            raise ValueError(f"activation.calibration={self.calibration}: allowed are {', '.join(CALIBRATIONS)}")
        if self.format().group_size is not None:
            raise ValueError(f"activation.group_size={self.format().group_size}: allowed for static scales is null")
        if not 50 < self.percent <= 100:
            raise ValueError(f"activation.percent={self.percent}: allowed are values above 50 and up to 100")

    @property
    def needs_inputs(self) -> bool:
        return True

    @property
    def range(self) -> CountedRange:
        """The rule that chooses the interval."""
        return {
            "minmax": MinMax(),
            "percentile": Percentile(percent=self.percent),
            "mse": MSE(norm=2.0),
            "kl": KL(),
        }[self.calibration]

    def check(self, variant: "Variant") -> None:
        if isinstance(variant.rounding, BlockTuner) and variant.rounding.rescales:
            raise ValueError(
                "activation: static scales are calibrated before a rounding that rescales inputs; allowed are dynamic "
                "ones, or rounding.let=false"
            )

    def quantizer(self, name: str, role: str, seen: Histogram | None = None) -> InputQuantizer | None:
        if not self.acts_on(name, role):
            return None
        if seen is None or not seen.total:
            return DynamicQuantizer(self.format(), per_token=False)
        params = self.range.fit_counts(seen, self.format())
        return StaticQuantizer(self.format(), params.map(lambda t: t[0, 0]))
