"""One point in the product of axes."""

from dataclasses import dataclass, field, fields

from quantbench.formats import LUT, Format
from quantbench.methods.activation import Activation, NoActivation
from quantbench.methods.allocation.base import Allocation
from quantbench.methods.component import Component
from quantbench.methods.kv_cache import KVCache, NoKVCache
from quantbench.methods.range.base import Range
from quantbench.methods.range.kmeans import KMeans
from quantbench.methods.rounding.base import Rounding
from quantbench.methods.rounding.tuner import BlockTuner
from quantbench.methods.training import NoTraining, Training
from quantbench.methods.transform.base import ModelTransform, Transform

STATISTICS = ("propagate", "fp")


@dataclass(frozen=True)
class Variant:
    """One point in the product of axes.

    statistics: ``propagate`` calibrates each block on what the already quantized blocks produce (the GPTQ authors'
    code), ``fp`` on the full-precision activations (the AWQ authors' code), which several variants can share.
    """

    format: Format
    range: Range
    transform: Transform
    rounding: Rounding
    allocation: Allocation
    statistics: str
    activation: Activation = field(default_factory=NoActivation)
    kv_cache: KVCache = field(default_factory=NoKVCache)
    training: Training = field(default_factory=NoTraining)

    @property
    def components(self) -> tuple[Component, ...]:
        """The choices on the axes, but for the format."""
        values = (getattr(self, f.name) for f in fields(self))
        return tuple(value for value in values if isinstance(value, Component))

    @property
    def quantizes(self) -> bool:
        """False for full precision: nothing is quantized, neither weights nor what is computed from them."""
        acts = (self.rounding.quantizes, self.activation.quantizes, self.kv_cache.quantizes, self.training.trains)
        return any(acts)

    @property
    def needs_statistics(self) -> bool:
        """Whether any axis looks at what flows into the linears."""
        return self.quantizes and any(c.needs_calibration or c.needs_fisher for c in self.components)

    @property
    def walks_tokens(self) -> bool:
        """Whether tokens go through the blocks as they are quantized: to be looked at, or to tune whole blocks on."""
        return self.needs_statistics or isinstance(self.rounding, BlockTuner) or self.needs_inputs

    @property
    def needs_inputs(self) -> bool:
        """Whether any axis looks at the inputs of linears themselves."""
        return self.quantizes and any(c.needs_inputs for c in self.components)

    @property
    def learns(self) -> bool:
        """Whether its transform of the whole model is fitted to what it quantizes at run time."""
        return self.quantizes and isinstance(self.transform, ModelTransform) and self.transform.learns

    @property
    def needs_calibration(self) -> bool:
        """Whether any calibration tokens are needed: in the walk, or to fit a transform or train the model on."""
        return self.walks_tokens or self.learns or self.training.needs_text

    @property
    def needs_fisher(self) -> bool:
        """Whether any axis looks at squared gradients."""
        return self.quantizes and any(c.needs_fisher for c in self.components)

    @property
    def needs_pairs(self) -> bool:
        """Whether any axis compares each token's inputs with those of the same token in full precision."""
        return self.quantizes and any(c.needs_pairs for c in self.components)

    def check(self) -> None:
        """Refuse combinations without meaning.

        Raises:
            ValueError: names the setting and what is allowed, in one line.
        """
        if self.quantizes:
            if isinstance(self.format, LUT) and not isinstance(self.range, KMeans):
                raise ValueError("format=lut has tables to learn: allowed only with range=kmeans")
            for component in self.components:
                component.check(self)
