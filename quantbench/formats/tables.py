"""The published tables, each computed from its definition."""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from quantbench.formats.table import CodeTable

# QLoRA's outermost quantile: the mean of 1 - 1/32 and 1 - 1/30, to the seven digits of the authors' code
_NF4_OUTERMOST = 0.9677083
_CDF_POINTS = 4097
_ABSMAX_LIMIT = 8.0  # max|Z| of a block is never above this many standard deviations in float64
_ABSMAX_CELLS = 2000
_MAX_ROUNDS = 5000


def nf4() -> Tensor:
    """NF4 (QLoRA, arXiv 2305.14314, section 3 and the authors' code): 8 positive quantiles, 7 negative, and zero.

    The quantile levels are laid out in fp32 and the table is normalised in fp32, as there: to the last bit.
    """
    positive = torch.special.ndtri(torch.linspace(_NF4_OUTERMOST, 0.5, 9)[:-1].double())
    negative = -torch.special.ndtri(torch.linspace(_NF4_OUTERMOST, 0.5, 8)[:-1].double())
    values = torch.cat([negative, torch.zeros(1, dtype=torch.float64), positive]).float().sort().values
    return values / values.max()


def normal_quantile(bits: int) -> Tensor:
    """The middles of 2^bits slices of N(0, 1) with equal probability, normalised to [-1, 1]; zero is not among them."""
    count = 2**bits
    values = torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count)
    return (values / values.max()).float()


def bitsandbytes_fp4() -> Tensor:
    """bitsandbytes' FP4, by code: a sign bit and three bits whose order is that of the library, normalised by 12."""
    magnitudes = torch.tensor([0, 0.0625, 8, 12, 4, 6, 2, 3])
    return torch.cat([magnitudes, -magnitudes]) / magnitudes.max()


def e2m1() -> Tensor:
    """FP4 E2M1 (OCP Microscaling Formats v1.0, section 5.3.3), by code: sign, two exponent bits of bias 1, mantissa."""
    code = torch.arange(8)
    exponent, mantissa = code // 2, code % 2
    normal = (1 + mantissa / 2) * torch.exp2(exponent.float() - 1)
    magnitudes = torch.where(exponent == 0, mantissa / 2, normal)
    return torch.cat([magnitudes, -magnitudes])


def float8(element: str) -> Tensor:
    """FP8 E4M3 or E5M2 (arXiv 2209.05433), by code, NaN and infinities included."""
    dtype = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}[element]
    return torch.arange(256, dtype=torch.uint8).view(dtype).float()


def dynamic8() -> Tensor:
    """bitsandbytes' signed 8-bit dynamic code (arXiv 1511.04561; 2110.02861, section 2.1), ascending.

    A power of ten from 1e-6 to 1 and a fraction: the middles of equal slices of [0.1, 1], twice as many for each next
    power; with zero and one.
    """
    positive = []
    for power in range(7):
        ends = torch.linspace(0.1, 1, 2**power + 1)
        positive.append(10 ** (power - 6) * (ends[:-1] + ends[1:]) / 2)
    values = torch.cat(positive)
    return torch.cat([values, -values, torch.tensor([0.0, 1.0])]).sort().values


def af4(block: int) -> Tensor:
    """AF4 (Yoshida, arXiv 2306.06965), for normal weights divided by the absmax of their block.

    -1, 0 and 1 are given, 6 values lie between them on the negative side and 7 on the positive; each is the median of
    what rounds to it, the condition for the least mean absolute error. As in the author's code the cells next to zero
    reach as far as zero: zero itself is left out of the account.
    """
    points = torch.linspace(0, 1, _CDF_POINTS, dtype=torch.float64)
    probability = _scaled_normal_cdf(block, points)
    positive, negative = (_medians(points, probability, count) for count in (8, 7))
    return torch.cat([-negative.flip(0), torch.zeros(1, dtype=torch.float64), positive]).float()


def _scaled_normal_cdf(block: int, x: Tensor) -> Tensor:
    """P(0 < Z_i / max_j |Z_j| < x) for ``block`` independent normal Z and x in [0, 1) (Yoshida, section 3).

    Given the absmax m of the block, its other weights are normal truncated to [-m, m].
    """
    edges = torch.linspace(0, _ABSMAX_LIMIT, _ABSMAX_CELLS + 1, dtype=torch.float64)
    middles = (edges[1:] + edges[:-1]) / 2
    root = 2**0.5
    weights = torch.erf(edges / root).pow(block).diff()  # P(absmax in the cell)
    inside = torch.erf(x[:, None] * middles / root) / torch.erf(middles / root)
    return (block - 1) / (2 * block) * (inside * weights).sum(1)


def _medians(points: Tensor, probability: Tensor, count: int) -> Tensor:
    """Ascending values in (0, 1], the last fixed at 1, each other one the median of its cell; cells meet halfway."""
    values = torch.linspace(0, 1, count + 1, dtype=torch.float64)[1:]
    for _ in range(_MAX_ROUNDS):
        borders = torch.cat([values.new_zeros(1), (values[1:] + values[:-1]) / 2])
        below = _interpolate(points, probability, borders)
        medians = _interpolate(probability, points, (below[1:] + below[:-1]) / 2)
        change = (medians - values[:-1]).abs().max()
        values = torch.cat([medians, values[-1:]])
        if change < 1e-13:
            break
    return values


def _interpolate(x: Tensor, y: Tensor, at: Tensor) -> Tensor:
    """Piecewise linear y(at) for ascending x."""
    right = torch.searchsorted(x, at).clamp(1, len(x) - 1)
    left = right - 1
    return y[left] + (at - x[left]) / (x[right] - x[left]) * (y[right] - y[left])


# What a code is called -> its table, given bits and block size, and whether ties go to the even code
_BUILDERS: dict[str, tuple[Callable[[int, int], Tensor], bool]] = {
    "nf4": (lambda bits, block: nf4(), False),
    "normal_quantile": (lambda bits, block: normal_quantile(bits), False),
    "af4": (lambda bits, block: af4(block), False),
    "fp4": (lambda bits, block: bitsandbytes_fp4(), False),
    "dynamic8": (lambda bits, block: dynamic8(), False),
    "ternary": (lambda bits, block: torch.tensor([0.0, 1.0, -1.0, torch.nan]), True),  # the code is the value modulo 3
    "binary": (lambda bits, block: torch.tensor([1.0, -1.0]), True),  # the code is the sign bit
    "e2m1": (lambda bits, block: e2m1(), True),
    "e4m3": (lambda bits, block: float8("e4m3"), True),
    "e5m2": (lambda bits, block: float8("e5m2"), True),
}


@lru_cache(maxsize=64)
def code_table(name: str, device: torch.device, *, bits: int = 4, block: int = 0) -> CodeTable:
    """The table of a code; bits matters to ``normal_quantile`` alone, block (weights that share a scale) to ``af4``."""
    build, ties_to_even = _BUILDERS[name]
    return CodeTable.of(build(bits, block).to(device), ties_to_even=ties_to_even)
