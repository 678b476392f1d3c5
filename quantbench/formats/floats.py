"""Small floating point formats: FP8, and FP4 with the two-level scales of current hardware."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from quantbench.formats.base import GroupParams, Levels, Settled
from quantbench.formats.scaled import ScaledTable, require
from quantbench.formats.table import CodeTable
from quantbench.formats.tables import code_table

FP8_ELEMENTS = ("e4m3", "e5m2")
_E2M1_EXPONENT = 2  # of the largest normal number, 6 = 1.5 * 2^2
_E8M0_EXPONENT = 127  # an e8m0 byte holds 2^-127 to 2^127
_LEAST_TENSOR_SCALE = 2.0**-117  # times the smallest e4m3 number, 2^-9, still a normal fp32 number


@dataclass
class FP8(ScaledTable):
    """Eight-bit floats, max|w| scaled to the largest one (448 for e4m3, 57344 for e5m2), round to nearest even.

    element: ``e4m3`` (no infinities, NaN alone) or ``e5m2``. The usual granularities are the whole row (group_size
    null) and the whole matrix (per_tensor).
    """

    bits: int = 8
    group_size: int | None = None
    element: str = "e4m3"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.element not in FP8_ELEMENTS:
            raise ValueError(f"format.element={self.element}: allowed are {', '.join(FP8_ELEMENTS)}")
        require(self.bits, 8, "bits", "fp8 stores 8 bits")

    def table(self, device: torch.device) -> CodeTable:
        return code_table(self.element, device)


@dataclass
class BlockFP4(ScaledTable):
    """E2M1 elements in blocks of a fixed size; the subclasses say how the block's scale is stored."""

    name: ClassVar[str]

    @property
    @abstractmethod
    def block(self) -> int:
        """Weights that share a scale."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.bits, 4, "bits", f"{self.name} stores 4 bits")
        require(self.per_tensor, False, "format.per_tensor", f"{self.name} has a scale for each block")
        require(self.group_size, self.block, "group_size", f"{self.name} has blocks of {self.block}")
        require(self.scale_dtype, "float32", "format.scale_dtype", f"{self.name} stores its own kind of scale")

    def table(self, device: torch.device) -> CodeTable:
        return code_table("e2m1", device)


@dataclass
class MXFP4(BlockFP4):
    """MXFP4 (OCP Microscaling Formats v1.0): blocks of 32 that share a power of two, stored as an e8m0 byte.

    The shared exponent is floor(log2 max|w|) - 2 (section 6.3), so the largest weights of a block may lie above the
    largest element, 6, and are clipped to it.
    """

    name: ClassVar[str] = "mxfp4"
    group_size: int | None = 32

    @property
    def block(self) -> int:
        return 32

    @property
    def storage_dtype(self) -> torch.dtype:
        return torch.float8_e8m0fnu

    def params(self, low: Tensor, high: Tensor) -> GroupParams:
        bound = torch.maximum(-low, high)
        exponent = torch.frexp(bound).exponent - 1 - _E2M1_EXPONENT  # frexp's mantissa is in [1/2, 1)
        exponent = torch.where(bound > 0, exponent, -_E8M0_EXPONENT).clamp(-_E8M0_EXPONENT, _E8M0_EXPONENT)
        scale = torch.exp2(exponent.float())
        return GroupParams(scale, torch.zeros_like(scale))


@dataclass
class NVFP4(BlockFP4):
    """NVFP4: blocks of 16 whose scale is an e4m3 number times one fp32 number for the matrix.

    The matrix's scale maps the largest block scale to 448, the largest e4m3 number: max|W| / (6 * 448) when nothing is
    clipped. A block that is not all zero gets at least the smallest e4m3 number. row_scale: one fp32 number for each
    row instead, which is what fits inputs that are quantized token by token.
    """

    name: ClassVar[str] = "nvfp4"
    group_size: int | None = 16
    row_scale: bool = False

    @property
    def block(self) -> int:
        return 16

    @property
    def joint(self) -> bool:
        return True

    @property
    def rows_independent(self) -> bool:
        return self.row_scale

    def settle(self, params: GroupParams) -> Settled:
        e4m3 = code_table("e4m3", params.scale.device)
        largest = params.scale.amax(1, keepdim=True) if self.row_scale else params.scale.max().view(1)
        tensor_scale = (largest / e4m3.top).clamp(min=_LEAST_TENSOR_SCALE)
        codes = e4m3.nearest(params.scale / tensor_scale)
        codes = torch.where(params.scale > 0, codes.clamp(min=1), 0)  # code 1 is the smallest positive number
        levels = {"scale": codes.to(torch.uint8).view(torch.float8_e4m3fn), "tensor_scale": tensor_scale}
        return Settled(self.expand(levels, *params.scale.shape), levels)

    def expand(self, levels: Levels, rows: int, groups: int) -> GroupParams:
        scale = levels["scale"].float() * levels["tensor_scale"]
        return GroupParams(scale, torch.zeros_like(scale))
