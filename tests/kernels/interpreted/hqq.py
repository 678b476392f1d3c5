"""HQQ's iterations: the kernel ends where the torch loop ends, and the method uses it."""

import pytest
import torch

from quantbench.formats import IntFormat
from quantbench.kernels.hqq import reference, triton
from quantbench.methods.grid import Grid
from quantbench.methods.range import MinMax
from quantbench.methods.rounding import HQQ

OPTIONS = {"lp_norm": 0.7, "beta": 10.0, "kappa": 1.01, "iterations": 20}


@pytest.mark.parametrize(("groups", "size", "bits", "spread"), [(70, 64, 4, 1.0), (9, 50, 2, 1.0), (5, 600, 3, 30.0)])
def test_zero_points_are_those_of_the_loop(groups, size, bits, spread, poisoned):
    generator = torch.Generator().manual_seed(groups)
    weight = torch.randn(groups, size, generator=generator) * spread
    weight[0] = 0
    params = IntFormat(bits=bits, zero_point_dtype="float32").params(weight.amin(1, True), weight.amax(1, True))
    arguments = (weight, params.scale, params.zero_point)
    moved = triton.moved_zero_point(*arguments, max_code=2**bits - 1, **OPTIONS)
    expected = reference.moved_zero_point(*arguments, max_code=2**bits - 1, **OPTIONS)
    assert bool((expected != params.zero_point).any())
    # sums are in another order, and a group may stop an iteration earlier when it moves by just SETTLED
    assert torch.allclose(moved, expected, atol=2 * reference.SETTLED)
    assert float((moved - expected).abs().median()) < 1e-5


def test_the_method_goes_through_the_kernel(monkeypatch):
    called = []
    original = triton.moved_zero_point
    monkeypatch.setattr(triton, "moved_zero_point", lambda *a, **k: called.append(1) or original(*a, **k))
    format = IntFormat(bits=3, group_size=32, zero_point_dtype="float16")
    rounded = HQQ().round(torch.randn(8, 96, generator=torch.Generator().manual_seed(0)), Grid(format, MinMax()), None)
    assert called
    assert bool(torch.isfinite(rounded.weight.zero_point).all())
