"""Roundings with error feedback beat round-to-nearest on every format, on the same grid."""

import pytest
import torch

from quantbench.config.schema import components
from quantbench.methods.allocation import Uniform
from quantbench.methods.grid import Grid
from quantbench.methods.range import MinMax
from quantbench.methods.rounding import GPTQ, LDLQ, RTN
from quantbench.methods.transform import NoTransform
from quantbench.methods.variant import Variant
from tests.methods.problems import problem

FORMATS = components("format")


def suitable_range(format):
    """Min-max where the format allows it, otherwise the first range that is made for it."""
    for make in (MinMax, *components("range").values()):
        try:
            Variant(format, make(), NoTransform(), GPTQ(), Uniform(), "propagate").check()
        except ValueError:
            continue
        return make()
    raise AssertionError(f"{format} goes with no range")


@pytest.mark.parametrize("rounding", [GPTQ(static_groups=True), LDLQ()], ids=["gptq", "ldlq"])
@pytest.mark.parametrize("name", FORMATS)
def test_output_error_is_below_that_of_round_to_nearest_on_the_same_grid(name, rounding):
    format = FORMATS[name]()
    weight, stats = problem(32, 256)
    stats.fisher = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) * stats.hessian.diagonal()
    grid = Grid(format.for_shape(32, 256), suitable_range(format))
    nearest, adapted = (r.round(weight, grid, stats).weight for r in (RTN(), rounding))
    assert (nearest.scale == adapted.scale).all()
    errors = [stats.output_error(w.dequantize() - weight) for w in (nearest, adapted)]
    assert errors[1] < 0.8 * errors[0]
