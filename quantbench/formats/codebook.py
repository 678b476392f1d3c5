"""Four-bit codes with fixed, unevenly spaced values: NF4, FP4 and others, with or without double quantization."""

from dataclasses import dataclass

import torch
from torch import Tensor

from quantbench.formats.base import GroupParams, Levels, Settled
from quantbench.formats.scaled import ScaledTable, require
from quantbench.formats.table import CodeTable
from quantbench.formats.tables import code_table

CODES = ("nf4", "fp4", "e2m1", "af4", "normal_quantile")
MIN_BITS, MAX_BITS = 2, 8  # of the one code that is defined for more than four
_NESTED_BLOCK = 256
_LATTICE = 2**16 - 1


@dataclass
class Codebook(ScaledTable):
    """A scale for each block of weights (their absmax) and a code from a fixed table, as QLoRA stores weights.

    code: ``nf4``, QLoRA's NormalFloat; ``fp4``, bitsandbytes' four-bit float; ``e2m1``, the OCP one; ``af4``, Yoshida's
    AbnormalFloat for the block size; ``normal_quantile``, slices of equal probability of N(0, 1), 2 to 8 bits.
    double_quant: the scales, less their mean over the matrix, are stored in 8 bits, in blocks of 256 with a scale each
    (QLoRA, section 3). Weights are then rounded against the scales as stored; bitsandbytes rounds them against the
    scales as they were.
    """

    group_size: int | None = 64
    code: str = "nf4"
    double_quant: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.code not in CODES:
            raise ValueError(f"format.code={self.code}: allowed are {', '.join(CODES)}")
        if self.code != "normal_quantile":
            require(self.bits, 4, "bits", f"{self.code} stores 4 bits")
        elif not MIN_BITS <= self.bits <= MAX_BITS:
            raise ValueError(f"bits={self.bits}: allowed for normal_quantile are {MIN_BITS} to {MAX_BITS}")
        if self.code == "af4" and (self.group_size is None or self.group_size < 2):
            raise ValueError(f"group_size={self.group_size}: af4 is made for its block; allowed are 2 and more")
        if self.double_quant and self.per_tensor:
            raise ValueError("format.per_tensor=true: allowed only with format.double_quant=false")
        if self.double_quant:
            require(self.scale_dtype, "float32", "format.scale_dtype", "double quantization stores its own scales")

    @property
    def joint(self) -> bool:
        return self.double_quant or super().joint

    @property
    def rows_independent(self) -> bool:
        return not self.double_quant and super().rows_independent

    def table(self, device: torch.device) -> CodeTable:
        return code_table(self.code, device, bits=self.bits, block=self.group_size or 0)

    def settle(self, params: GroupParams) -> Settled:
        if not self.double_quant:
            return super().settle(params)
        levels = nested_levels(params.scale)
        return Settled(self.expand(levels, *params.scale.shape), levels)

    def expand(self, levels: Levels, rows: int, groups: int) -> GroupParams:
        if not self.double_quant:
            return super().expand(levels, rows, groups)
        scale = nested_scale(levels).view(rows, groups)
        return GroupParams(scale, torch.zeros_like(scale))


def nested_levels(scale: Tensor) -> dict[str, Tensor]:
    """Scales [rows, groups] as bitsandbytes' double quantization stores them.

    scale: uint8 [rows * groups], codes of the 8-bit dynamic table; scale_absmax: fp32, one for 256 of them in row-major
    order; scale_mean: fp32 [1]. The library's CPU kernel looks a number up on a lattice of 2^16 points in [-1, 1]; so
    do we, for equal codes.
    """
    mean = scale.mean()
    rest = (scale - mean).flatten()
    count = len(rest)
    blocks = torch.nn.functional.pad(rest, (0, -count % _NESTED_BLOCK)).view(-1, _NESTED_BLOCK)
    absmax = blocks.abs().amax(1, keepdim=True)
    unit = (blocks * (1 / absmax)).nan_to_num(-1).clamp(-1, 1)  # a block of zeros gets the lowest code, as there
    lattice = ((unit + 1) * 0.5 * _LATTICE + 0.5).floor() * 2 / _LATTICE - 1
    codes = code_table("dynamic8", scale.device).nearest(lattice)
    return {
        "scale": codes.flatten()[:count].to(torch.uint8),
        "scale_absmax": absmax[:, 0],
        "scale_mean": mean.view(1),
    }


def nested_scale(levels: Levels) -> Tensor:
    """The scales [rows * groups] behind :func:`nested_levels`; rounding must not make a scale negative or subnormal."""
    codes, absmax = levels["scale"], levels["scale_absmax"]
    unit = code_table("dynamic8", codes.device).decode(codes)
    scale = unit * absmax.repeat_interleave(_NESTED_BLOCK)[: len(codes)] + levels["scale_mean"]
    return torch.where(scale < torch.finfo(torch.float32).tiny, 0, scale)
