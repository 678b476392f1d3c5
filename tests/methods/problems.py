"""Random layers for the roundings' tests."""

import torch

from quantbench.methods.stats import SiteStats


def problem(rows: int, columns: int, seed: int = 0) -> tuple[torch.Tensor, SiteStats]:
    """Correlated inputs with a few strong channels, as a language model has them."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=generator) / columns**0.5
    strength = torch.exp(torch.randn(columns, generator=generator))
    inputs = (torch.randn(4 * columns, columns, generator=generator) @ mix + 0.3) * strength
    stats = SiteStats.empty(columns)
    stats.update(inputs)
    return torch.randn(rows, columns, generator=generator), stats


def in_float64(weight: torch.Tensor, stats: SiteStats) -> tuple[torch.Tensor, SiteStats]:
    """The same layer in double precision, where two orders of one computation agree to the last code."""
    return weight.double(), SiteStats(stats.gram.double(), stats.absmax, stats.abs_sum, stats.count)
