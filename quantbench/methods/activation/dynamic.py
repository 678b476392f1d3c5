"""Dynamic quantization: the range of an input is taken from itself, as it comes."""

from dataclasses import dataclass

from torch import Tensor

from quantbench.formats import Format, QuantizedWeight
from quantbench.methods.activation.base import InputQuantizer, QuantizedInputs
from quantbench.methods.grid import Grid
from quantbench.methods.histogram import Histogram
from quantbench.methods.range.minmax import MinMax

GRANULARITIES = ("token", "tensor")


@dataclass(frozen=True)
class DynamicQuantizer(InputQuantizer):
    """Round to nearest on ranges that are found as the input comes.

    per_token: scales of their own for each token; otherwise one for the tokens of a sequence that come together. clip:
    by what the range is multiplied (QuaRot, arXiv 2404.00456, clips 4-bit inputs at 0.9 of their maximum).
    """

    format: Format
    per_token: bool = True
    clip: float = 1.0

    def quantized(self, x: Tensor) -> QuantizedWeight:
        """Codes of x [..., tokens, in]: a row of them is a token, or a sequence with its tokens one after the other."""
        return Grid(self.format, MinMax(self.clip)).nearest(self._rows(x), None)

    def __call__(self, x: Tensor) -> Tensor:
        if self.format.group_size is not None:
            return self.quantized(x).dequantize().view(x.shape).to(x.dtype)
        rows = self._rows(x)  # the same values without the codes and a scale for every element in memory
        params = Grid(self.format, MinMax(self.clip)).fit_groups(rows, None).params
        return self.format.decode(self.format.encode(rows, params), params).view(x.shape).to(x.dtype)

    def _rows(self, x: Tensor) -> Tensor:
        """What shares a scale, or its groups, as rows in fp32."""
        width = x.shape[-1] if self.per_token else x.shape[-2] * x.shape[-1]
        return x.reshape(-1, width).float()


@dataclass
class DynamicActivation(QuantizedInputs):
    """Ranges are those of the input itself: of each ``token``, or of the ``tensor`` (a sequence's tokens together).

    clip: by what the range is multiplied before it is quantized.
    """

    granularity: str = "token"
    clip: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.granularity not in GRANULARITIES:
            raise ValueError(f"activation.granularity={self.granularity}: allowed are {', '.join(GRANULARITIES)}")
        if self.granularity == "tensor" and self.format().group_size is not None:
            raise ValueError(f"activation.granularity=tensor: allowed only with one scale, which {self.number} has not")
        if not 0 < self.clip <= 1:
            raise ValueError(f"activation.clip={self.clip}: allowed are values above 0 and up to 1")

    def quantizer(self, name: str, role: str, seen: Histogram | None = None) -> InputQuantizer | None:
        if not self.acts_on(name, role):
            return None
        return DynamicQuantizer(self.format(), self.granularity == "token", self.clip)
