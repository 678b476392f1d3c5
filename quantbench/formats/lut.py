"""Look-up tables: each group of weights has its own 2^bits values."""

from dataclasses import dataclass

import torch
from torch import Tensor

from quantbench.formats.base import Format, GroupParams, Levels
from quantbench.formats.outliers import stored_value

MIN_BITS, MAX_BITS = 2, 8


@dataclass
class LUT(Format):
    """Codes index a table of 2^bits float16 values in ascending order, one table a group (SqueezeLLM's, a row).

    There is no scale: ``GroupParams.scale`` is one and nothing but the table is stored.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if not MIN_BITS <= self.bits <= MAX_BITS:
            raise ValueError(f"bits={self.bits}: allowed for look-up tables are {MIN_BITS} to {MAX_BITS}")
        if self.per_tensor:
            raise ValueError("format.per_tensor=true: allowed for look-up tables is a table for each group or row")

    @property
    def stored_zero_point(self) -> bool:
        return False

    @property
    def storage_dtype(self) -> torch.dtype:
        return torch.float16

    @property
    def entries(self) -> int:
        """Values in a table."""
        return 2**self.bits

    def params(self, low: Tensor, high: Tensor) -> GroupParams:
        steps = torch.linspace(0, 1, self.entries, device=low.device)
        return self.table_params(low[..., None] + (high - low)[..., None] * steps)

    def table_params(self, table: Tensor) -> GroupParams:
        """Parameters of tables [..., 2^bits] in ascending order, rounded to what is stored."""
        scale = torch.ones(table.shape[:-1], device=table.device)
        return GroupParams(scale, torch.zeros_like(scale), stored_value(table))

    def encode(self, weight: Tensor, params: GroupParams) -> Tensor:
        assert params.codebook is not None
        middle = ((params.codebook[..., 1:] + params.codebook[..., :-1]) / 2).to(weight.dtype)
        if middle.shape[:-1] == (*weight.shape[:-1], 1):  # one table a row
            return torch.searchsorted(middle[..., 0, :].contiguous(), weight.contiguous()).float()
        middle = middle.expand(*weight.shape, -1).contiguous()
        return torch.searchsorted(middle, weight[..., None].contiguous())[..., 0].float()

    def decode(self, codes: Tensor, params: GroupParams) -> Tensor:
        assert params.codebook is not None
        index = codes.long()
        if params.codebook.shape[:-1] == (*codes.shape[:-1], 1):
            return params.codebook[..., 0, :].gather(-1, index)
        return params.codebook.expand(*codes.shape, -1).gather(-1, index[..., None])[..., 0]

    def stored_params(self, params: GroupParams) -> dict[str, Tensor]:
        assert params.codebook is not None
        return {"codebook": params.codebook.to(self.storage_dtype)}

    def restored_params(self, stored: Levels, groups: int) -> GroupParams:
        return self.table_params(stored["codebook"].float())
