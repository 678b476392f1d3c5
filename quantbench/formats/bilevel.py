"""Integers whose scales and zero-points are integers too."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from quantbench.formats.base import Format, GroupParams, Levels, Settled
from quantbench.formats.integer import MAX_BITS, MIN_BITS
from quantbench.formats.packing import pack_bits, unpack_bits

_STORED = torch.float16
_SMALLEST_SCALE = 2.0**-24  # the least positive float16


@dataclass
class IntBilevel(Format):
    """Codes 0 .. 2^bits - 1 with value ``scale * (code - zero_point)``, both themselves quantized (SpQR, sec. 4.2).

    A first-level group is ``group_size`` neighbouring input channels of one row. The scales of ``second_group_size``
    neighbouring rows (output channels) at the same group of columns share a second level: ``scale_bits`` bits each
    between their minimum and maximum, and so do the zero-points (which are not rounded to a code first) in
    ``zero_bits``. The second level keeps a minimum and a step in float16 for scales and for zero-points each; the
    authors' code keeps a zero-point instead of the minimum.
    """

    scale_bits: int = 3
    zero_bits: int = 3
    second_group_size: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.per_tensor:
            raise ValueError("format.per_tensor=true: allowed only for formats with one level of scales")
        if not MIN_BITS <= self.bits <= MAX_BITS:
            raise ValueError(f"bits={self.bits}: allowed for integers are {MIN_BITS} to {MAX_BITS}")
        for name in ("scale_bits", "zero_bits"):
            if not 1 <= getattr(self, name) <= MAX_BITS:
                raise ValueError(f"format.{name}={getattr(self, name)}: allowed are 1 to {MAX_BITS}")
        if self.second_group_size < 1:
            raise ValueError(f"format.second_group_size={self.second_group_size}: allowed is a positive integer")

    @property
    def stored_zero_point(self) -> bool:
        return True

    @property
    def storage_dtype(self) -> torch.dtype:
        return _STORED

    @property
    def joint(self) -> bool:
        return True

    @property
    def fitted_ahead(self) -> bool:
        return False  # the second level runs along the rows: a group of columns settles by itself

    @property
    def rows_independent(self) -> bool:
        return False

    def params(self, low: Tensor, high: Tensor) -> GroupParams:
        scale = ((high - low) / (2**self.bits - 1)).clamp(_SMALLEST_SCALE, torch.finfo(_STORED).max)
        return GroupParams(scale, -low / scale)

    def encode(self, weight: Tensor, params: GroupParams) -> Tensor:
        return torch.round(weight / params.scale + params.zero_point).clamp_(0, 2**self.bits - 1)

    def decode(self, codes: Tensor, params: GroupParams) -> Tensor:
        return (codes - params.zero_point) * params.scale

    def settle(self, params: GroupParams) -> Settled:
        levels = self._level("scale", params.scale, self.scale_bits)
        levels |= self._level("zero", params.zero_point, self.zero_bits)
        return Settled(self.expand(levels, *params.scale.shape), levels)

    def expand(self, levels: Levels, rows: int, groups: int) -> GroupParams:
        scale = self._values("scale", levels, self.scale_bits, rows).clamp(min=_SMALLEST_SCALE)
        return GroupParams(scale, self._values("zero", levels, self.zero_bits, rows))

    def _level(self, name: str, values: Tensor, bits: int) -> dict[str, Tensor]:
        """What stands for ``values`` [rows, groups]: packed codes, and of each second-level group minimum and step.

        The first dimension of each is the groups'.
        """
        cells = self._by_second_group(values)
        least = cells.amin(2).to(_STORED)
        step = ((cells.amax(2) - least.float()) / (2**bits - 1)).to(_STORED)
        spacing = step.float().clamp(min=_SMALLEST_SCALE)[..., None]
        codes = torch.round((cells - least.float()[..., None]) / spacing).clamp_(0, 2**bits - 1)
        packed = pack_bits(codes.flatten(1)[:, : len(values)].to(torch.uint8), bits)
        return {f"{name}_codes": packed, f"{name}_least": least, f"{name}_step": step}

    def _by_second_group(self, values: Tensor) -> Tensor:
        """[rows, groups] as [groups, second-level groups, second_group_size]; the last row fills a ragged end."""
        missing = -len(values) % self.second_group_size
        padded = F.pad(values.T, (0, missing), mode="replicate")
        return padded.reshape(values.shape[1], -1, self.second_group_size)

    def _values(self, name: str, levels: Levels, bits: int, rows: int) -> Tensor:
        """Inverse of :meth:`_level`, fp32 [rows, groups]."""
        codes = unpack_bits(levels[f"{name}_codes"], bits, rows).float()
        second = torch.arange(rows, device=codes.device) // self.second_group_size
        least, step = (levels[f"{name}_{part}"].float()[:, second] for part in ("least", "step"))
        return (least + step * codes).T
