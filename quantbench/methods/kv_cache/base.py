"""The contract of the KV-cache axis."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from quantbench.formats import Format, GroupParams, IntFormat
from quantbench.methods.component import Component
from quantbench.methods.curvature import Curvature
from quantbench.methods.grid import Grid
from quantbench.methods.numbers import number_format
from quantbench.methods.range.base import Range
from quantbench.methods.range.minmax import MinMax
from quantbench.methods.transform.hadamard_matrix import hadamard_factors, hadamard_matrix

_LARGEST_ZERO_POINT = 2.0**15  # that float16 holds


@dataclass
class KVCache(Component, ABC):
    """How the keys and values of past tokens are stored while a model runs."""

    @property
    def quantizes(self) -> bool:
        """False for the choice that leaves them in the model's dtype."""
        return True

    @property
    @abstractmethod
    def nominal_bits(self) -> int:
        """Bits of a code; 16 where nothing is quantized."""


@dataclass
class QuantizedKVCache(KVCache, ABC):
    """Keys (after their rotary embedding) and values as codes of one number format; ranges are found as tokens come.

    The cache is written before it is read: a query sees its own token as stored, too. ``residual_length`` keeps that
    many of the newest tokens, this one included, in the model's dtype; a token is quantized when it leaves them.

    number: ``int`` (of 2 to 8 ``bits``), ``e4m3``, ``e5m2`` (8 bits), ``e2m1``, ``mxfp4``, ``nvfp4`` (4 bits); scales
    are float16. symmetric: integers without a zero-point. real_zero_point: one in float16 instead of a code, so that
    the range need not hold zero (KIVI stores the minimum). group_size: neighbours in a row that share a scale; null:
    all. clip: by what a range is multiplied. rotate: queries and keys are turned by a Hadamard matrix in each head,
    which no score shows but for the rounding (QuaRot, arXiv 2404.00456, section 4); rotate_values: so are values, and
    what attention gives is turned back.
    """

    bits: int = 8
    number: str = "int"
    symmetric: bool = False
    real_zero_point: bool = False
    group_size: int | None = None
    clip: float = 1.0
    residual_length: int = 0
    rotate: bool = False
    rotate_values: bool = False

    def __post_init__(self) -> None:
        if self.real_zero_point and (self.symmetric or self.number != "int"):
            raise ValueError("kv_cache.real_zero_point=true: allowed only with number=int and symmetric=false")
        if not 0 < self.clip <= 1:
            raise ValueError(f"kv_cache.clip={self.clip}: allowed are values above 0 and up to 1")
        if self.residual_length < 0:
            raise ValueError(f"kv_cache.residual_length={self.residual_length}: allowed are 0 and more")
        try:
            self.format()
        except ValueError as error:
            raise ValueError(f"kv_cache.{error}") from error

    @property
    def nominal_bits(self) -> int:
        return self.bits

    def format(self) -> Format:
        """The number format, in which a row is a token of a head or a channel over tokens."""
        zero = "float16" if self.real_zero_point else "int"
        return number_format(
            self.number,
            self.bits,
            self.group_size,
            symmetric=self.symmetric,
            scale_dtype="float16",
            zero_point_dtype=zero,
        )

    @property
    def grid(self) -> Grid:
        """What rounds rows to their nearest codes."""
        return Grid(self.format(), _Span(self.clip) if self.real_zero_point else MinMax(self.clip))

    @property
    @abstractmethod
    def groups_tokens(self) -> bool:
        """Whether tokens share scales, so that it matters where in its sequence a token stands."""

    @abstractmethod
    def keys(self, keys: Tensor) -> Tensor:
        """What is read of stored keys [..., tokens, width], of the same shape and dtype; the first starts its sequence.

        Those that are not stored yet (see :meth:`stored_keys`) may be anything.
        """

    def check_width(self, width: int) -> None:
        """Refuse heads that cannot be rotated.

        Raises:
            ValueError: names the setting and what is allowed, in one line.
        """
        if (self.rotate or self.rotate_values) and hadamard_factors(width) is None:
            raise ValueError(
                f"kv_cache.rotate=true: no Hadamard matrix of order {width}, the width of a head, is known"
            )

    def values(self, values: Tensor) -> Tensor:
        """What is read of stored values [..., tokens, width]: every token of a head is a row."""
        return self.by_token(values)

    def by_token(self, x: Tensor) -> Tensor:
        """The values of the nearest codes of x [..., tokens, width], where each token of a head is a row."""
        return self._nearest(x.reshape(-1, x.shape[-1])).view(x.shape).to(x.dtype)

    def by_channel(self, x: Tensor) -> Tensor:
        """The same where each channel of a head is a row, with its tokens as columns."""
        columns = x.transpose(-1, -2)
        rows = columns.reshape(-1, x.shape[-2])
        return self._nearest(rows).view(columns.shape).transpose(-1, -2).to(x.dtype)

    def _nearest(self, rows: Tensor) -> Tensor:
        return self.grid.nearest(rows.float(), None).dequantize()

    @abstractmethod
    def stored_keys(self, length: Tensor) -> Tensor:
        """How many of the oldest of ``length`` tokens have their keys stored as codes; integers of any shape."""

    def stored_values(self, length: Tensor) -> Tensor:
        """The same of values, of which never more are stored than of keys."""
        return (length - self.residual_length).clamp(min=0)

    @abstractmethod
    def bits_per_element(self, tokens: int, width: int, *, full: int) -> float:
        """Stored bits over elements of keys and values after ``tokens`` tokens in heads of this width, all counted.

        full: bits of what is not quantized yet.
        """

    def _row_bits(self, columns: int) -> float:
        """Stored bits over elements of rows that have so many columns."""
        return self.grid.nearest(torch.zeros(1, columns), None).bits_per_weight


@dataclass
class _Span(Range):
    """From the smallest element of a row to the largest, shrunk by ``clip``; zero need not be inside."""

    clip: float

    def fit(self, weight: Tensor, format: Format, curvature: Curvature | None) -> GroupParams:
        assert isinstance(format, IntFormat)
        low, high = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
        cut = (high - low) * ((1 - self.clip) / 2)
        low, high = low + cut, high - cut
        # so wide that -low / scale can be stored: a step finer than float16 tells numbers of this size apart
        least = torch.maximum(-low, high) * (format.max_code / _LARGEST_ZERO_POINT)
        missing = (least - (high - low)).clamp(min=0) / 2
        return format.params(low - missing, high + missing)


def rotated(x: Tensor, *, back: bool = False) -> Tensor:
    """x [..., n] times H / sqrt(n), or times its inverse, with H a Hadamard matrix; fp64 for fp64, otherwise fp32."""
    x = x if x.dtype == torch.float64 else x.float()
    matrix = _orthogonal(x.shape[-1]).to(x)
    with torch.autocast(x.device.type, enabled=False):  # what is stored is rounded once
        return x @ (matrix.T if back else matrix)


@cache
def _orthogonal(order: int) -> Tensor:
    return hadamard_matrix(order) / order**0.5
