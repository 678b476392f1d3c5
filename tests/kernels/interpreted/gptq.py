"""GPTQ's inner loop: the kernel against the torch loop, to the last bit, alone and inside the whole method."""

import pytest
import torch

from quantbench.formats import GroupParams, IntFormat
from quantbench.kernels import gptq
from quantbench.kernels.gptq import reference, triton
from quantbench.methods.grid import Grid
from quantbench.methods.range import MinMax
from quantbench.methods.rounding import GPTQ
from quantbench.methods.stats import SiteStats


@pytest.fixture(autouse=True)
def _products_are_rounded(monkeypatch):
    """torch's addr_ fuses its product into the sum on some processors; the kernel never does."""
    monkeypatch.setattr(
        torch.Tensor, "addr_", lambda self, a, b, *, alpha=1: self.add_(a[:, None] * b[None, :] * alpha)
    )


FORMATS = {
    "w4": IntFormat(bits=4, group_size=None),
    "w2-real-zero": IntFormat(bits=2, group_size=None, zero_point_dtype="float16"),
    "w8-narrow": IntFormat(bits=8, group_size=None, symmetric=True, narrow_range=True),
}


def problem(n, rows, format, groups):
    generator = torch.Generator().manual_seed(n + rows)
    columns = torch.randn(n, rows, generator=generator)
    factor = (torch.randn(n, n, generator=generator) / n**0.5).triu(1) + torch.eye(n) * 1.3
    correction = torch.randn(n, n, generator=generator).triu(1) * 0.01
    keep = torch.rand(n, rows, generator=generator) < 0.1
    spread = torch.rand(groups, rows, generator=generator) + 1
    return columns, factor, correction, keep, format.params(-spread, spread.flip(0))


@pytest.mark.parametrize("options", [False, True], ids=["plain", "corrected-and-keeping"])
@pytest.mark.parametrize(("n", "rows"), [(24, 19), (7, 16)])
@pytest.mark.parametrize("name", FORMATS)
def test_codes_errors_and_weights_are_those_of_the_loop(name, n, rows, options, poisoned):
    format = FORMATS[name]
    columns, factor, correction, keep, params = problem(n, rows, format, groups=3)
    groups = [i % 3 for i in range(n)] if options else [1] * n
    extra = {"correction": correction, "keep": keep} if options else {}
    theirs = columns.clone()
    codes, errors = triton.quantize_piece(columns, factor, params, groups, format, **extra)
    expected_codes, expected_errors = reference.quantize_piece(theirs, factor, params, groups, format, **extra)
    assert torch.equal(codes, expected_codes)
    assert torch.equal(errors, expected_errors)
    assert torch.equal(columns, theirs)


@pytest.mark.parametrize("options", [False, True], ids=["plain", "corrected-and-keeping"])
@pytest.mark.parametrize(("n", "rows", "size"), [(24, 19, 8), (21, 16, 8), (7, 3, 16)])
@pytest.mark.parametrize("name", FORMATS)
def test_groups_that_are_fitted_on_the_way_have_the_parameters_of_the_loop(name, n, rows, size, options, poisoned):
    columns, factor, correction, keep, _ = problem(n, rows, FORMATS[name], groups=1)
    extra = {"correction": correction, "keep": keep} if options else {}
    theirs = columns.clone()
    *ours, params = triton.fit_and_quantize_piece(columns, factor, FORMATS[name], size, **extra)
    *loop, expected = reference.fit_and_quantize_piece(theirs, factor, FORMATS[name], size, **extra)
    assert params.scale.shape == (-(-n // size), rows)
    for found, wanted in zip((*ours, *params[:2], columns), (*loop, *expected[:2], theirs), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize(("act_order", "static"), [(False, False), (True, False), (True, True)])
def test_the_method_gives_the_same_codes_through_the_kernel(act_order, static, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    stats = SiteStats.empty(80)
    stats.update(torch.randn(300, 80, generator=generator) * torch.exp(torch.randn(80, generator=generator)))
    weight = torch.randn(20, 80, generator=generator)
    grid = Grid(IntFormat(bits=3, group_size=32), MinMax())
    method = GPTQ(act_order=act_order, static_groups=static)
    calls = []
    name = "quantize_piece" if static else "fit_and_quantize_piece"
    monkeypatch.setattr(triton, name, _counted(getattr(triton, name), calls))
    ours = method.round(weight, grid, stats).weight
    assert calls
    monkeypatch.setattr(gptq, "use_triton", lambda tensor: False)
    monkeypatch.setattr(gptq, "PIECE", gptq.KERNEL_PIECE)
    loop = method.round(weight, grid, stats).weight
    assert torch.equal(ours.codes, loop.codes)
    assert torch.equal(ours.scale, loop.scale)


def _counted(function, calls):
    def counted(*args, **kwargs):
        calls.append(1)
        return function(*args, **kwargs)

    return counted


def test_groups_may_be_few_or_many():
    format = FORMATS["w4"]
    columns, factor, _, _, params = problem(5, 3, format, groups=5)
    codes, _ = triton.quantize_piece(columns.clone(), factor, params, [4, 2, 0, 1, 3], format)
    picked = GroupParams(params.scale[[4, 2, 0, 1, 3]], params.zero_point[[4, 2, 0, 1, 3]])
    expected, _ = reference.quantize_piece(columns, factor, picked, [0, 1, 2, 3, 4], format)
    assert torch.equal(codes, expected)
