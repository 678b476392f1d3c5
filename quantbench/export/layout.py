"""The contract of a layout: what a quantized linear becomes in a checkpoint, and how its configuration says so."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from quantbench.formats import Format, IntFormat, QuantizedWeight


@dataclass(frozen=True)
class Packed:
    """What a layout makes of the quantized linears.

    tensors: what is stored in place of the weights, by full name; config: ``quantization_config`` of config.json;
    files: further JSON files by name.
    """

    tensors: dict[str, Tensor]
    config: dict[str, Any]
    files: dict[str, Any] = field(default_factory=dict)


class Layout(ABC):
    """How another library stores the linears that it runs; everything else in a checkpoint is as it always is."""

    name: ClassVar[str]
    loads_with: ClassVar[str]
    """What a reader needs, in words."""
    column_multiple: ClassVar[int] = 1
    row_multiple: ClassVar[int] = 1

    @abstractmethod
    def check_format(self, format: Format) -> None:
        """Refuse a format that the layout has no place for.

        Raises:
            ValueError: names the setting and what is allowed, in one line.
        """

    def check_variant(self, formats: Sequence[Format], *, keeps_weights: bool, reorders_groups: bool) -> None:
        """Refuse, from the configuration alone, what could not be written.

        formats: of all linears; keeps_weights: some stay in 16 bits inside a quantized matrix; reorders_groups: groups
        do not follow the column order (GPTQ's act_order without static_groups).

        Raises:
            ValueError: names the setting and what is allowed, in one line.
        """
        if keeps_weights:
            raise ValueError(
                f"save_layout={self.name} has no place for weights kept in 16 bits beside a quantized matrix; allowed "
                "are allocation=uniform and allocation=mixed"
            )
        for format in formats:
            self.check_format(format)

    def check_shape(self, format: Format, rows: int, columns: int) -> None:
        """Refuse a matrix [rows, columns] that does not fill the layout's words and groups.

        Raises:
            ValueError: names what does not divide, in one line.
        """
        size = format.group_size or columns
        if columns % size:
            raise ValueError(
                f"save_layout={self.name}: group_size={size} does not divide {columns} input channels; allowed are "
                f"its divisors ({', '.join(map(str, _divisors(columns)))}) or -1"
            )
        if columns % self.column_multiple or rows % self.row_multiple:
            raise ValueError(
                f"save_layout={self.name}: a matrix of {rows} x {columns}; allowed are multiples of "
                f"{self.row_multiple} output and {self.column_multiple} input channels"
            )

    @abstractmethod
    def pack(self, weights: Mapping[str, QuantizedWeight], plain: Sequence[str], dtype: torch.dtype) -> Packed:
        """The quantized linears as they are stored.

        plain: names of the linears that are not quantized; dtype: of the model's other weights.
        """

    def loading(self, folder: str, *, mixed: bool) -> str:
        """Python that loads the folder; mixed: its linears are of several formats."""
        return f"""from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")
"""

    def _refuse(self, what: str, allowed: str) -> ValueError:
        return ValueError(f"save_layout={self.name} cannot hold {what}; allowed are {allowed}")

    def _check_integers(self, format: Format, bits: Sequence[int]) -> IntFormat:
        """The format, if it is uniform integers of these bits with zero-points that are codes."""
        allowed = f"format=int with {_listed(bits)} bits"
        if type(format) is not IntFormat:
            raise self._refuse(f"format={type(format).__name__}", allowed)
        if format.bits not in bits:
            raise self._refuse(f"bits={format.bits}", allowed)
        if format.real_zero_point:
            raise self._refuse(f"format.zero_point_dtype={format.zero_point_dtype}", "zero-points that are codes (int)")
        return format

    def _check_half(self, format: IntFormat, formats: Sequence[Format]) -> None:
        """What the layouts of GPTQ and AWQ share: scales in float16, one format for the whole model."""
        if format.scale_dtype != "float16":
            raise self._refuse(f"format.scale_dtype={format.scale_dtype}", "scales in float16")
        if any(other != format for other in formats):
            raise self._refuse("linears of different bits", "allocation=uniform, or save_layout=compressed_tensors")


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _divisors(number: int) -> list[int]:
    return [d for d in (16, 32, 48, 64, 96, 128, 192, 256) if number % d == 0] or [1]
