"""The contract of the activation axis."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from torch import Tensor

from quantbench.formats import Format, QuantizedWeight
from quantbench.methods.component import Component
from quantbench.methods.histogram import Histogram
from quantbench.methods.numbers import number_format
from quantbench.methods.patterns import matches


class InputQuantizer(ABC):
    """Fake quantization of what one linear reads; holds no tensor of a device."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """x [..., tokens, in] -> the values that its codes stand for, same shape and dtype."""

    def quantized(self, x: Tensor) -> QuantizedWeight | None:
        """The codes of x [..., tokens, in], in rows that share a scale; None where they are not all there is."""
        return None


@dataclass
class Activation(Component, ABC):
    """How the inputs of the linear layers are quantized at run time."""

    @property
    def quantizes(self) -> bool:
        """False for the choice that leaves them in the model's dtype."""
        return True

    @property
    @abstractmethod
    def nominal_bits(self) -> int:
        """Bits of a code; 16 where nothing is quantized."""

    @abstractmethod
    def quantizer(self, name: str, role: str, seen: Histogram | None = None) -> InputQuantizer | None:
        """What quantizes the inputs of the linear of this dotted name at a site of this role; None to leave them.

        seen: what calibration saw of these inputs, where ``needs_inputs`` asks for it.
        """


@dataclass
class QuantizedInputs(Activation, ABC):
    """Inputs as codes of one number format.

    number: ``int`` (of 2 to 8 ``bits``), ``e4m3``, ``e5m2`` (8 bits), ``e2m1``, ``mxfp4``, ``nvfp4`` (4 bits).
    symmetric: integers without a zero-point, from -(2^(bits-1) - 1) on. group_size: neighbouring channels of a token
    that share a scale (ZeroQuant, arXiv 2206.01861, shares it over the token); null: all. Run-time scales are fp32.
    skip: patterns (shell wildcards) of linears whose inputs stay, matched against the dotted name, its last part, and
    the role of the site: attention_in, attention_out, mlp_in, mlp_out.
    """

    bits: int = 8
    number: str = "int"
    symmetric: bool = True
    group_size: int | None = None
    skip: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        try:
            self.format()
        except ValueError as error:
            raise ValueError(f"activation.{error}") from error

    def format(self) -> Format:
        """The number format, in which a row is what shares a scale."""
        return number_format(self.number, self.bits, self.group_size, symmetric=self.symmetric, scale_dtype="float32")

    @property
    def nominal_bits(self) -> int:
        return self.bits

    def acts_on(self, name: str, role: str) -> bool:
        """Whether the inputs of the linear of this dotted name are quantized."""
        return not matches(self.skip, name, role)
