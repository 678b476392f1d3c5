"""Which number of a column is the best, and which are not significantly worse than it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from quantbench.errors import InputError
from quantbench.report.cells import Cells
from quantbench.report.pairing import Pairing
from quantbench.report.seeds import paired_seeds, runs_of
from quantbench.report.selection import Key, Query, Row, is_reference, mixed
from quantbench.statistics import CONFIDENCE, holm

# Where these differ along the rows, the best of a column says nothing: other questions, or other prices.
_INCOMPARABLE = {"metric", "task", "model", "model_revision", "protocol", "corpus", "dtype", "evaluation_hash"} | {
    "bits",
    "bits_per_weight",
    "group_size",
    "seed",
}
Place = tuple[Key, Key]


@dataclass(frozen=True)
class Ranking:
    """Cells by row and column key: the best ones, and those that the paired test does not tell from the best.

    comparisons: how many tests were corrected together; untested: why there were none, empty when there were.
    """

    best: frozenset[Place] = frozenset()
    tied: frozenset[Place] = frozenset()
    comparisons: int = 0
    untested: str = ""

    def note(self) -> str:
        """What the emphasis means, for below the table; empty where nothing is marked."""
        if not self.best:
            return ""
        if self.untested:
            return f"bold: best; whether others are worse is not tested: {self.untested}"
        if not self.comparisons:
            return ""
        return (
            f"bold: best; underlined: not significantly worse (p >= {1 - CONFIDENCE:.2f}; paired tests, Holm over "
            f"{self.comparisons} comparison{'s' if self.comparisons > 1 else ''} with the best)"
        )


def rank(cells: Cells, query: Query, pairing: Pairing | None) -> Ranking:
    """Rank the quantized runs within each column of each group of rows; without ``pairing`` nothing is tested."""
    if _INCOMPARABLE & set(query.rows[query.groups :]):
        return Ranking()
    best: dict[Place, Row] = {}
    others: list[tuple[Place, Row, Row]] = []
    for column in _columns(cells, query).values():
        first = _best(column)
        if first is not None:
            value = first["value"]
            best |= {place: row for place, row in column if row["value"] == value}
            others += [(place, row, first) for place, row in column if row["value"] != value]
    if pairing is None:
        return Ranking(frozenset(best), untested="samples are not in the store")
    try:
        found = [(place, pairing.compare(*paired_seeds(runs_of(row), runs_of(first)))) for place, row, first in others]
    except InputError as error:
        return Ranking(frozenset(best), untested=str(error))
    tested = [(place, item.p_value) for place, item in found if item is not None and item.p_value is not None]
    adjusted = holm([p for _, p in tested])
    tied = {place for (place, _), p in zip(tested, adjusted, strict=True) if p >= 1 - CONFIDENCE}
    unpaired = others and all(item is None for _, item in found)
    untested = "the metric keeps no samples of a text or task" if unpaired else ""
    return Ranking(frozenset(best), frozenset(tied), len(tested), untested)


def _columns(cells: Cells, query: Query) -> dict[tuple[Key, Key], list[tuple[Place, Row]]]:
    """Quantized cells of each group of rows and column, where they were measured in the same way."""
    columns: dict[tuple[Key, Key], list[tuple[Place, Row]]] = {}
    for row_key in cells.row_keys:
        for col_key in cells.col_keys:
            row = cells.cells.get((row_key, col_key))
            if row is not None and not is_reference(row):
                columns.setdefault((row_key[: query.groups], col_key), []).append(((row_key, col_key), row))
    return {key: column for key, column in columns.items() if not list(mixed([row for _, row in column]))}


def _best(column: Sequence[tuple[Place, Row]]) -> Row | None:
    rows = [row for _, row in column if math.isfinite(row["value"])]
    if len({row["value"] for row in rows}) < 2:
        return None
    choose = max if rows[0]["higher_is_better"] else min
    return choose(rows, key=lambda row: float(row["value"]))
