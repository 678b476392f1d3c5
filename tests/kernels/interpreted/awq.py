"""AWQ's inner step: the kernel against torch, to the last bit, and inside the search."""

import pytest
import torch

from quantbench.formats import IntFormat
from quantbench.kernels.awq import reference, triton
from quantbench.methods.grid import Grid
from quantbench.methods.range import MinMax
from quantbench.methods.stats import SiteStats
from quantbench.methods.transform import AWQ, SiteProblem

FORMATS = {
    "w4-g32": IntFormat(bits=4, group_size=32),
    "w3-ragged": IntFormat(bits=3, group_size=48),
    "w2-row-sym": IntFormat(bits=2, group_size=None, symmetric=True),
    "w4-real-zero": IntFormat(bits=4, group_size=32, zero_point_dtype="float16"),
}


def problem(format):
    generator = torch.Generator().manual_seed(0)
    stats = SiteStats.empty(100)
    stats.update(torch.randn(300, 100, generator=generator) * torch.exp(torch.randn(100, generator=generator)))
    weight = torch.randn(35, 100, generator=generator)
    return SiteProblem(
        weights=[weight],
        stats=stats,
        grid=Grid(format, MinMax()),
        linear_error=lambda replaced: stats.output_error(replaced[0] - weight),
    )


@pytest.mark.parametrize("name", FORMATS)
def test_rounded_weights_are_those_of_torch(name, poisoned):
    weight = problem(FORMATS[name]).weights[0]
    scale = torch.exp(torch.randn(100, generator=torch.Generator().manual_seed(1)))
    rounded = triton.scaled_nearest(weight, scale, FORMATS[name])
    assert torch.equal(rounded, reference.scaled_nearest(weight, scale, FORMATS[name]))


def test_the_search_finds_the_same_scale(monkeypatch):
    searched = problem(FORMATS["w3-ragged"])
    ours = AWQ(n_grid=4, objective="linear").site_scale(searched)
    monkeypatch.setattr(triton, "scaled_nearest", reference.scaled_nearest)
    assert torch.equal(ours, AWQ(n_grid=4, objective="linear").site_scale(searched))
