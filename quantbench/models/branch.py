"""One variant on its way through the walk: what it has so far, what it cost, and why it left."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from quantbench.errors import forget_frames
from quantbench.formats import QuantizedWeight
from quantbench.layers import LayerError
from quantbench.methods.activation import InputQuantizer
from quantbench.methods.kv_cache import KVCache
from quantbench.methods.variant import Variant
from quantbench.models.capture import BlockInputs
from quantbench.models.online import OnlineAffine


@dataclass
class VariantResult:
    """What quantizing changed: quantized linears and rescaled parameters by their names in the model, and notes.

    inputs: what quantizes the inputs of linears at run time, by their names, quantized or not; online: what changes
    the basis of quantized linears' inputs before, by their names; caches: how attention
    modules store keys and values, by their names; latent: what was rounded, where it is kept, by the names of the
    linears; losses: of the steps of training; layers: the error of each quantized linear, by the same names;
    seconds: of the walk, spent on this variant alone; shared_seconds: spent on what it has in common with others and
    would have cost it as much alone.
    """

    weights: dict[str, QuantizedWeight] = field(default_factory=dict)
    parameters: dict[str, Tensor] = field(default_factory=dict)
    inputs: dict[str, InputQuantizer] = field(default_factory=dict)
    online: dict[str, OnlineAffine] = field(default_factory=dict)
    caches: dict[str, KVCache] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    layers: dict[str, LayerError] = field(default_factory=dict)
    latent: dict[str, Tensor] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    shared_seconds: float = 0.0


@dataclass
class Branch:
    """A variant in the walk.

    keep_latent: whether its result keeps what was rounded; inputs: its own hidden states, where it is calibrated on
    what its quantized blocks produce; error: why it left the walk, None while it takes part.
    """

    variant: Variant
    keep_latent: bool = False
    result: VariantResult = field(default_factory=VariantResult)
    inputs: BlockInputs | None = None
    error: Exception | None = None

    @property
    def shares_statistics(self) -> bool:
        """Whether it looks at full-precision statistics, which are the same for all variants that do."""
        return self.variant.needs_statistics and self.variant.statistics == "fp"

    @property
    def shares_inputs(self) -> bool:
        """Whether it looks at the inputs of linears in blocks that full precision feeds."""
        return self.variant.needs_inputs and self.variant.statistics == "fp"

    @property
    def outcome(self) -> VariantResult | Exception:
        """What it came to."""
        return self.error or self.result

    @contextmanager
    def own_work(self, device: torch.device) -> Iterator[None]:
        """Measure what runs inside; an error there makes the variant leave the walk, and nobody else."""
        start = time.perf_counter()
        try:
            yield
        except Exception as error:
            self.leave(error)
        finally:
            self.result.seconds += elapsed(start, device)

    def leave(self, error: Exception) -> None:
        """Give up, and free what was held for it: also what the frames of the traceback still hold."""
        forget_frames(error)
        self.error, self.inputs, self.result = error, None, VariantResult()


def elapsed(start: float, device: torch.device) -> float:
    """Seconds since ``start`` (``time.perf_counter``), with the device's work done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
