"""GPTQ against the optimal-brain recursion in float64, written with explicit inverses of what remains."""

import numpy as np
import pytest
import torch

from quantbench.formats import IntFormat
from quantbench.methods.grid import Grid
from quantbench.methods.range import MinMax
from quantbench.methods.rounding import GPTQ, RTN
from quantbench.methods.rounding.factor import inverse_factor
from quantbench.methods.stats import SiteStats
from tests.methods.problems import problem


def grid(bits: int, group_size: int | None, symmetric: bool) -> Grid:
    format = IntFormat(bits=bits, group_size=group_size, symmetric=symmetric, scale_dtype="float32")
    return Grid(format, MinMax())


def optimal_brain(weight, hessian, bits, group_size, symmetric, damp, act_order, static_groups):
    """Quantize one column at a time; the rest moves by -(w - q) / [H_F^-1]_00 * [H_F^-1]_0, F what remains (OBQ)."""
    w, h = weight.double().numpy().copy(), hessian.double().numpy().copy()
    columns = w.shape[1]
    h += damp * np.mean(np.diag(h)) * np.eye(columns)
    size = group_size or columns
    order = np.argsort(-np.diag(hessian.double().numpy()), kind="stable") if act_order else np.arange(columns)
    maximum = 2**bits - 1

    def fit(block):
        low, high = np.minimum(block.min(1), 0), np.maximum(block.max(1), 0)
        if symmetric:
            return 2 * np.maximum(-low, high) / maximum, np.full(len(low), 2.0 ** (bits - 1))
        scale = (high - low) / maximum
        return scale, np.round(-low / scale)

    original = {g: fit(w[:, g * size : (g + 1) * size]) for g in range(-(-columns // size))}
    w, h = w[:, order], h[np.ix_(order, order)]
    result, params = np.zeros_like(w), None
    for i in range(columns):
        if static_groups:
            params = original[order[i] // size]
        elif i % size == 0:
            params = fit(w[:, i : i + size])
        scale, zero = params
        code = np.clip(np.round(w[:, i] / scale) + zero, 0, maximum)
        result[:, i] = scale * (code - zero)
        inverse = np.linalg.inv(h[i:, i:])
        w[:, i:] -= np.outer((w[:, i] - result[:, i]) / inverse[0, 0], inverse[0])
    return torch.from_numpy(result[:, np.argsort(order)])


CASES = {
    "w4-row-asym": (4, None, False, {}),
    "w3-g16-asym": (3, 16, False, {}),
    "w2-g16-sym": (2, 16, True, {}),
    "w4-g20-ragged": (4, 20, False, {}),
    "w3-g16-act_order": (3, 16, False, {"act_order": True}),
    "w3-g16-act_order-static": (3, 16, False, {"act_order": True, "static_groups": True}),
    "w3-g16-static": (3, 16, False, {"static_groups": True}),
    "w4-g16-damp0.1": (4, 16, False, {"damp_percent": 0.1}),
    "w3-g40-block16": (3, 40, False, {"block_size": 16}),
    "w3-g8-block16": (3, 8, False, {"block_size": 16}),
    "w3-row-block7": (3, None, False, {"block_size": 7}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_gptq_equals_optimal_brain_in_float64(case):
    bits, group_size, symmetric, options = case
    weight, stats = problem(12, 56)
    actual = GPTQ(**options).round(weight, grid(bits, group_size, symmetric), stats).weight.dequantize()
    expected = optimal_brain(
        weight,
        stats.hessian,
        bits,
        group_size,
        symmetric,
        options.get("damp_percent", 0.01),
        options.get("act_order", False),
        options.get("static_groups", False),
    )
    torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_gptq_output_error_is_below_rtn(bits):
    weight, stats = problem(32, 128, seed=bits)
    errors = [
        stats.output_error(rounding.round(weight, grid(bits, 32, False), stats).weight.dequantize() - weight)
        for rounding in (GPTQ(), RTN())
    ]
    assert errors[0] < 0.7 * errors[1]


def test_output_error_equals_the_mean_squared_output_difference():
    generator = torch.Generator().manual_seed(0)
    inputs, delta = torch.randn(40, 9, generator=generator), torch.randn(5, 9, generator=generator)
    stats = SiteStats.empty(9)
    stats.update(inputs[:15])
    stats.update(inputs[15:])
    expected = float((inputs.double() @ delta.double().T).square().sum(1).mean())
    assert stats.output_error(delta) == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(stats.absmax, inputs.abs().amax(0))
    torch.testing.assert_close(stats.mean_abs, inputs.abs().mean(0))


def test_stacked_rows_are_solved_as_if_alone():
    weight, stats = problem(10, 48)
    together = GPTQ(act_order=True).round(weight, grid(3, 16, False), stats).weight
    top, bottom = together.split_rows([4, 6])
    for part, rows in ((top, weight[:4]), (bottom, weight[4:])):
        alone = GPTQ(act_order=True).round(rows, grid(3, 16, False), stats).weight
        assert torch.equal(part.codes, alone.codes)


def test_factor_is_the_cholesky_factor_of_the_inverse():
    _, stats = problem(1, 40)
    factor, used = inverse_factor(stats.hessian, 0.01)
    damped = stats.hessian.double() + 0.01 * stats.hessian.diagonal().double().mean() * torch.eye(40)
    expected = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    assert used == 0.01
    torch.testing.assert_close(factor.double(), expected, rtol=1e-4, atol=1e-5)


def test_not_positive_definite_hessian_is_damped_until_it_is_and_noted():
    weight, stats = problem(4, 12)
    stats.gram -= 0.05 * stats.gram.diagonal().mean() * torch.eye(12)
    rounded = GPTQ(damp_percent=1e-4).round(weight, grid(4, None, False), stats)
    assert torch.isfinite(rounded.weight.dequantize()).all()
    assert "damp_percent raised to" in rounded.notes[0]


def test_dead_column_is_zeroed_and_noted():
    weight, stats = problem(4, 12)
    stats.gram[3], stats.gram[:, 3] = 0, 0
    rounded = GPTQ().round(weight, grid(8, None, False), stats)
    assert rounded.weight.dequantize()[:, 3].abs().max() == 0
    assert "1 input channels never active" in rounded.notes[0]
    assert float(stats.gram[3, 3]) == 0  # the caller's statistics are not touched


def test_no_tokens_means_round_to_nearest_and_noted():
    weight, _ = problem(4, 12)
    rounded = GPTQ().round(weight, grid(4, None, False), SiteStats.empty(12))
    assert torch.equal(rounded.weight.codes, RTN().round(weight, grid(4, None, False), None).weight.codes)
    assert "no calibration token" in rounded.notes[0]


def test_non_finite_tokens_are_left_out_and_counted():
    inputs = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    clean, dirty = SiteStats.empty(6), SiteStats.empty(6)
    clean.update(inputs)
    spoiled = torch.cat([inputs, torch.tensor([[1.0, float("nan"), 0, 0, 0, 0], [float("inf"), 0, 0, 0, 0, 0]])])
    dirty.update(spoiled)
    assert (dirty.count, dirty.dropped) == (20, 2)
    torch.testing.assert_close(dirty.gram, clean.gram)


@pytest.mark.parametrize("field", [{"damp_percent": 0.0}, {"damp_percent": 2.0}, {"block_size": 0}])
def test_out_of_range_hyperparameters_are_named(field):
    with pytest.raises(ValueError, match=next(iter(field))):
        GPTQ(**field)
