"""The GPTQ solver alone, against the textbook loop, on matrices of the shapes of one decoder block."""

import statistics
from dataclasses import dataclass

import torch
from torch import Tensor

from quantbench.bench.stopwatch import seconds_of
from quantbench.bench.textbook import textbook_gptq
from quantbench.formats import IntFormat
from quantbench.methods.grid import Grid
from quantbench.methods.range import MinMax
from quantbench.methods.rounding import GPTQ
from quantbench.methods.stats import SiteStats

SHAPES = ((960, 576), (576, 576), (3072, 576), (576, 1536))  # a block of SmolLM2-135M: q/k/v, o, gate/up, down
_DIFFERENT = 1e-3  # share of codes that may differ: sums in another order move a weight across a border now and then


@dataclass(frozen=True)
class SolverResult:
    """Median seconds of both sides for one block, and how equal their codes were."""

    ours: float
    textbook: float
    equal_codes: float

    @property
    def ratio(self) -> float:
        """How many times faster ours is."""
        return self.textbook / self.ours


def race(repeats: int, *, bits: int = 4, group_size: int = 64) -> SolverResult:
    """Solve one block's matrices in turns; a time counts only after the codes have been compared.

    Raises:
        RuntimeError: the two sides do not agree.
    """
    problems = [_problem(*shape, seed) for seed, shape in enumerate(SHAPES)]
    grid = Grid(IntFormat(bits=bits, group_size=group_size), MinMax())

    def ours() -> list[Tensor]:
        return [GPTQ().round(weight, grid, stats).weight.codes for weight, stats in problems]

    def textbook() -> list[Tensor]:
        return [textbook_gptq(weight, stats.hessian, bits=bits, group_size=group_size) for weight, stats in problems]

    equal = _agreement(ours(), textbook())
    seconds: dict[str, list[float]] = {"ours": [], "textbook": []}
    for _ in range(repeats):
        seconds["ours"].append(seconds_of(ours))
        seconds["textbook"].append(seconds_of(textbook))
    return SolverResult(statistics.median(seconds["ours"]), statistics.median(seconds["textbook"]), equal)


def _problem(rows: int, columns: int, seed: int) -> tuple[Tensor, SiteStats]:
    """Weights, and statistics of inputs with a few strong channels, as a language model has them."""
    generator = torch.Generator().manual_seed(seed)
    strength = torch.exp(torch.randn(columns, generator=generator))
    stats = SiteStats.empty(columns)
    stats.update(torch.randn(4 * columns, columns, generator=generator) * strength)
    return torch.randn(rows, columns, generator=generator), stats


def _agreement(ours: list[Tensor], theirs: list[Tensor]) -> float:
    different = sum(int((a != b).sum()) for a, b in zip(ours, theirs, strict=True))
    share = different / sum(a.numel() for a in ours)
    if share > _DIFFERENT:
        raise RuntimeError(f"{share:.2%} of the codes differ from the textbook's: no time is worth reporting")
    return 1 - share
