"""The contract of a number format: which values a code can mean, and what is stored beside the codes."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from quantbench.formats.packing import pack_bits, packed_bytes, unpack_bits

Levels = Mapping[str, Tensor]


class GroupParams(NamedTuple):
    """What turns codes into values, for each row of a group; a format's ``decode`` says how.

    scale: [rows, groups] fp32, already rounded to what is stored; zero_point: the same shape, what a format subtracts
    (a code for integers, a value for formats that store a minimum, zero where there is nothing to subtract); codebook:
    [rows, groups, 2^bits] for formats whose table is learned from the weights, None otherwise.
    """

    scale: Tensor
    zero_point: Tensor
    codebook: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> "GroupParams":
        """The same with ``change`` applied to each tensor (to its first two dimensions, for a codebook)."""
        return GroupParams(
            change(self.scale), change(self.zero_point), None if self.codebook is None else change(self.codebook)
        )

    def at(self, group: int) -> "GroupParams":
        """Those of one group, without the group dimension: scale and zero_point [rows], codebook [rows, 2^bits]."""
        return self.map(lambda t: t[:, group])

    def by_column(self, apply: "Callable[[Tensor, GroupParams], Tensor]", values: Tensor, groups: Tensor) -> Tensor:
        """``apply(values, params)`` for values [rows, in], with the parameters of each column's group (int64 [in])."""
        if self.codebook is None:
            return apply(values, self.map(lambda t: t.index_select(1, groups)))
        result = torch.empty_like(values, dtype=torch.float32)
        for group in range(self.scale.shape[1]):  # a table for every weight would take 2^bits times the matrix
            inside = groups == group
            result[:, inside] = apply(values[:, inside], self.map(lambda t, g=group: t[:, g : g + 1]))  # type: ignore[misc]
        return result

    @classmethod
    def concatenated(cls, parts: "list[GroupParams]") -> "GroupParams":
        """Groups side by side."""
        codebooks = [p.codebook for p in parts if p.codebook is not None]
        return cls(
            torch.cat([p.scale for p in parts], 1),
            torch.cat([p.zero_point for p in parts], 1),
            torch.cat(codebooks, 1) if codebooks else None,
        )


class Settled(NamedTuple):
    """A matrix's parameters as they can be stored: what decodes, and (for second-level formats) the bytes behind it."""

    params: GroupParams
    levels: Levels | None = None

    @classmethod
    def concatenated(cls, parts: "list[Settled]") -> "Settled":
        """Groups side by side, each settled by itself; the first dimension of their levels is the groups'."""
        levels = [p.levels for p in parts if p.levels is not None]
        joined = {name: torch.cat([level[name] for level in levels]) for name in levels[0]} if levels else None
        return cls(GroupParams.concatenated([p.params for p in parts]), joined)


@dataclass
class Format(ABC):
    """A number format. Fields are its hyperparameters; methods are its math.

    group_size is the number of neighbouring input channels that share one scale; None means the whole row.
    per_tensor: one scale for the whole matrix instead (group_size is then of no meaning).
    """

    bits: int = 4
    group_size: int | None = 128
    per_tensor: bool = False

    def __post_init__(self) -> None:
        if self.group_size == -1:  # the literature's spelling of "the whole row"
            self.group_size = None
        if self.group_size is not None and self.group_size < 1:
            raise ValueError(f"group_size={self.group_size}: allowed is a positive integer, or -1 or null (whole row)")
        if self.per_tensor:
            self.group_size = None

    @property
    @abstractmethod
    def stored_zero_point(self) -> bool:
        """Whether a zero-point is stored for each group (otherwise it is a constant of the format)."""

    @property
    @abstractmethod
    def storage_dtype(self) -> torch.dtype:
        """The dtype in which scales are stored, where they are stored as they are."""

    @property
    def joint(self) -> bool:
        """Whether the parameters of several groups are stored together (second-level scales): :meth:`settle` acts."""
        return self.per_tensor

    @property
    def fitted_ahead(self) -> bool:
        """Whether all groups of a row must be fitted before the first weight moves, since they are stored together."""
        return self.joint

    @property
    def rows_independent(self) -> bool:
        """Whether a row's values do not depend on other rows; otherwise matrices cannot be solved stacked."""
        return not self.per_tensor

    def for_shape(self, rows: int, columns: int) -> "Format":
        """The format that a matrix of this shape gets; some layouts fall back where it does not fit them."""
        return self

    @abstractmethod
    def params(self, low: Tensor, high: Tensor) -> GroupParams:
        """Scale and zero-point that cover the range [low, high] (any equal shapes, low <= 0 <= high)."""

    @abstractmethod
    def encode(self, weight: Tensor, params: GroupParams) -> Tensor:
        """Nearest code of each weight, as floating point integers; ``params`` broadcast against ``weight``."""

    @abstractmethod
    def decode(self, codes: Tensor, params: GroupParams) -> Tensor:
        """Values of the codes, in fp32; ``params`` broadcast against ``codes``."""

    def settle(self, params: GroupParams) -> Settled:
        """Make all parameters [rows, groups] of one matrix storable together (``joint`` formats; others: as they are).

        ``levels`` are the bytes that are stored instead of scale and zero-point; where rows are independent, the first
        dimension of each is the rows'.
        """
        if not self.per_tensor:
            return Settled(params)
        return Settled(params, self.stored_params(params.map(lambda t: t[:1])))

    def expand(self, levels: Levels, rows: int, groups: int) -> GroupParams:
        """Inverse of :meth:`settle` [rows, groups]: the parameters behind stored ``levels``."""
        assert self.per_tensor, "a joint format must say how to expand its levels"
        return self.restored_params(levels, 1).map(lambda t: t.expand(rows, groups))

    def code_bytes(self, columns: int) -> int:
        """Bytes of one packed row of codes."""
        return packed_bytes(columns, self.bits)

    def pack_codes(self, codes: Tensor) -> Tensor:
        """Codes [rows, columns] as uint8 [rows, code_bytes(columns)]."""
        return pack_bits(codes, self.bits)

    def unpack_codes(self, packed: Tensor, columns: int) -> Tensor:
        """Inverse of :meth:`pack_codes`: uint8 codes [rows, columns]."""
        return unpack_bits(packed, self.bits, columns)

    def storable(self, params: GroupParams) -> GroupParams:
        """The nearest parameters that can be stored as they are (formats that are not ``joint``)."""
        return params._replace(scale=params.scale.to(self.storage_dtype).float())

    def stored_params(self, params: GroupParams) -> dict[str, Tensor]:
        """The tensors to store for parameters that are stored as they are, one scale (and zero-point) a group."""
        stored = {"scale": params.scale.to(self.storage_dtype)}
        if self.stored_zero_point:
            stored["zero_point"] = self._pack_zero_point(params.zero_point)
        if params.codebook is not None:
            stored["codebook"] = params.codebook.to(self.storage_dtype)
        return stored

    def restored_params(self, stored: Levels, groups: int) -> GroupParams:
        """Inverse of :meth:`stored_params` for ``groups`` groups a row."""
        codebook = stored.get("codebook")
        scale = stored["scale"].float()
        if "zero_point" in stored:
            zero_point = self._unpack_zero_point(stored["zero_point"], groups)
        else:
            zero_point = self.params(-torch.ones_like(scale), torch.ones_like(scale)).zero_point
        return GroupParams(scale, zero_point, None if codebook is None else codebook.float())

    def _pack_zero_point(self, zero_point: Tensor) -> Tensor:
        return pack_bits(zero_point, self.bits)

    def _unpack_zero_point(self, packed: Tensor, groups: int) -> Tensor:
        return unpack_bits(packed, self.bits, groups).float()

    def group_slices(self, columns: int) -> list[slice]:
        """The groups along a row of ``columns`` weights; the last one may be ragged."""
        return group_slices(columns, self.group_size)


def group_slices(columns: int, group_size: int | None) -> list[slice]:
    """Cut ``columns`` into groups of ``group_size`` (None: one group); the last one may be shorter."""
    size = columns if group_size is None else group_size
    return [slice(start, min(start + size, columns)) for start in range(0, columns, size)]
