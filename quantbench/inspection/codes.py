"""How values lie on the code points of the groups that quantize them."""

from typing import NamedTuple

import torch
from torch import Tensor

from quantbench.formats import Format, GroupParams, QuantizedWeight
from quantbench.store.inspection import CODE_BINS, CODE_RANGE, CodeUse

_MOST_ELEMENTS = 2**22  # of code points at a time
_TINY = torch.finfo(torch.float32).tiny


class _Ends(NamedTuple):
    """Of the code points of every group [rows, groups]: the outermost values, and half a step beyond each."""

    low: Tensor
    high: Tensor
    clip_low: Tensor
    clip_high: Tensor


class CodeCounter:
    """Collects what quantized matrices [rows, in] of one format made of their values, in pieces.

    Positions are counted from the lowest code point of a value's group (0) to the highest (1), so that groups of all
    scales, and formats with learned tables, fall onto one axis. Entries kept in 16 bits are left out.
    """

    def __init__(self, format: Format) -> None:
        self.format, self.codes = format, 2**format.bits
        self._counts = torch.zeros(self.codes, dtype=torch.int64)
        self._histogram = torch.zeros(CODE_BINS, dtype=torch.float64)
        self._points = torch.zeros(self.codes, dtype=torch.float64)
        self._point_groups = torch.zeros(self.codes, dtype=torch.float64)
        self._values = self._clipped = self._moved = 0
        self._squares = self._energy = self._distance = 0.0

    def add(self, values: Tensor, quantized: QuantizedWeight) -> None:
        """values [rows, in]: what ``quantized`` stands for, in full precision, wherever they lie."""
        values = values.to(quantized.codes.device).float()
        coded = None
        if quantized.outliers is not None:
            coded = torch.ones(values.shape, dtype=torch.bool, device=values.device)
            coded.view(-1)[quantized.outliers.index] = False
        groups = quantized.column_groups()
        step = max(1, _MOST_ELEMENTS // max(values.shape[1], self.codes * quantized.scale.shape[1]))
        for start in range(0, len(values), step):
            rows = slice(start, start + step)
            params = quantized.params.map(lambda t, rows=rows: t[rows])  # type: ignore[misc]
            seen = None if coded is None else coded[rows]
            self._add(values[rows], quantized.codes[rows], params, groups, seen)

    def _add(self, values: Tensor, codes: Tensor, params: GroupParams, groups: Tensor, seen: Tensor | None) -> None:
        """seen: which values count; None for all."""

        def flat(matrix: Tensor) -> Tensor:
            return matrix.flatten() if seen is None else matrix[seen]

        ends, format = self._ends(params), self.format
        low, high, clip_low, clip_high = (flat(end.index_select(1, groups)) for end in ends)
        nearest = flat(params.by_column(format.decode, params.by_column(format.encode, values, groups), groups))
        chosen = flat(params.by_column(format.decode, codes.float(), groups))
        values, span = flat(values), high - low
        error = values - nearest
        self._counts += torch.bincount(flat(codes).long(), minlength=self.codes).cpu()
        self._values += values.numel()
        self._clipped += int(((values < clip_low) | (values > clip_high)).sum())
        self._moved += int((chosen != nearest).sum())
        self._squares += float(error.double().square().sum())
        self._energy += float(values.double().square().sum())
        if not bool((span > 0).all()):  # groups of zeros
            values, low, error, span = (part[span > 0] for part in (values, low, error, span))
        self._distance += float((error.abs() / span).double().sum())
        position = ((values - low) / span).clamp(*CODE_RANGE)
        self._histogram += torch.histc(position, CODE_BINS, *CODE_RANGE).double().cpu()

    def _ends(self, params: GroupParams) -> _Ends:
        """The outermost code points of every group; where all of them lie is added to what is known."""
        rows, groups = params.scale.shape
        numbers = torch.arange(self.codes, device=params.scale.device).repeat(rows, groups).float()
        of_group = torch.arange(groups, device=params.scale.device).repeat_interleave(self.codes)
        points = params.by_column(self.format.decode, numbers, of_group)
        # NaN, infinities, and codes that no value is given (-8 of a narrow range) are no code points
        reached = params.by_column(self.format.encode, points.nan_to_num(), of_group) == numbers
        usable = (reached & torch.isfinite(points)).view(rows, groups, self.codes)
        points = points.view(rows, groups, self.codes)
        ascending = points.masked_fill(~usable, torch.inf).sort(-1).values
        descending = points.masked_fill(~usable, -torch.inf).sort(-1, descending=True).values
        low, high = ascending[..., 0], descending[..., 0]
        self._add_points(ascending, low, high)
        below, above = ((ends[..., 1] - ends[..., 0]) / 2 for ends in (ascending, descending))
        return _Ends(low, high, low - below.nan_to_num(0, 0, 0), high - above.nan_to_num(0, 0, 0))

    def _add_points(self, ascending: Tensor, low: Tensor, high: Tensor) -> None:
        span = (high - low)[..., None]
        usable = torch.isfinite(ascending) & (span > 0)
        places = ((ascending - low[..., None]) / span.clamp(min=_TINY)).masked_fill(~usable, 0)
        self._points += places.double().sum((0, 1)).cpu()
        self._point_groups += usable.double().sum((0, 1)).cpu()

    def use(self) -> CodeUse:
        """In the numbers that are recorded."""
        share = self._counts.double() / max(self._values, 1)
        used = share[share > 0]
        points = (self._points / self._point_groups)[self._point_groups > 0].tolist()
        return CodeUse(
            code_counts=self._counts.tolist(),
            code_points=points,
            code_histogram=(self._histogram / self._histogram.sum().clamp(min=1)).tolist(),
            codes_used=len(used),
            code_entropy=float(-(used * used.log2()).sum()),
            clipped=self._clipped / max(self._values, 1),
            distance=self._distance / max(self._values, 1) * max(len(points) - 1, 1),
            nearest_error=self._squares / max(self._energy, _TINY),
            moved=self._moved / max(self._values, 1),
        )
