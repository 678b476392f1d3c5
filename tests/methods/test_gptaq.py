"""GPTAQ against the optimal-brain recursion with the asymmetric residual, in float64; and where it must be GPTQ."""

from dataclasses import replace

import pytest
import torch

from quantbench.config import check_command_line
from quantbench.errors import InputError
from quantbench.formats import IntFormat
from quantbench.methods.grid import Grid
from quantbench.methods.range import MinMax
from quantbench.methods.rounding import GPTAQ, GPTQ
from quantbench.methods.stats import SiteStats
from tests.methods.problems import problem

GRID = Grid(IntFormat(bits=3, group_size=16, scale_dtype="float32"), MinMax())


def paired_problem(rows=12, columns=56, seed=0):
    """A layer, its inputs in full precision and what quantized layers before it make of them [tokens, in]."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=generator) / columns**0.5
    full = torch.randn(4 * columns, columns, generator=generator) @ mix + 0.3
    drifted = 0.9 * full + 0.2 * torch.randn(full.shape, generator=generator) @ mix
    stats = SiteStats.empty(columns)
    for part in (slice(100), slice(100, None)):
        stats.update(drifted[part], full[part])
    return torch.randn(rows, columns, generator=generator), full, drifted, stats


def optimal_brain(weight, full, drifted, alpha, order, static):
    """min over what remains of ||(w + dw) X^ - w X||^2, one column at a time, the residual of the column's own inputs.

    Closed form of each step (the paper's optimal-brain compression with a residual): the rounding error moves the rest
    by -(w_q - q) [H^-1]_0 / [H^-1]_00, the residual w_q (X_q - X^_q) by its projection on the inputs that remain.
    """
    w, x, y = weight.double().clone(), full.double()[:, order], drifted.double()[:, order]
    columns = w.shape[1]
    damp = 0.01 * (y.square().sum(0) / len(y)).mean() * len(y) * torch.eye(columns)
    fixed = GRID.fit_groups(weight, None).params
    w, result = w[:, order], torch.zeros_like(w)
    for i in range(columns):
        if static:
            params = fixed.at(int(order[i]) // 16)
        elif i % 16 == 0:
            params = GRID.fit(w[:, i : i + 16].float(), None).at(0)
        now = w[:, i].clone()
        result[:, i] = GRID.format.decode(GRID.format.encode(now, params), params)
        remaining = (y.T @ y + damp)[i:, i:]
        inverse = torch.linalg.inv(remaining)
        w[:, i:] -= torch.outer((now - result[:, i]) / inverse[0, 0], inverse[0])
        if i + 1 < columns:
            residual = torch.outer(now, x[:, i] - y[:, i])  # [out, tokens]
            w[:, i + 1 :] += alpha * residual @ y[:, i + 1 :] @ torch.linalg.inv(remaining[1:, 1:])
    return result[:, torch.argsort(order)]


@pytest.mark.parametrize("alpha", [0.25, 1.0])
@pytest.mark.parametrize(
    "options",
    [{}, {"act_order": True, "static_groups": True}, {"act_order": True}, {"block_size": 16}, {"static_groups": True}],
    ids=lambda o: "-".join(o) or "default",
)
def test_gptaq_equals_optimal_brain_with_the_asymmetric_residual_in_float64(options, alpha):
    weight, full, drifted, stats = paired_problem()
    actual = GPTAQ(alpha=alpha, **options).round(weight, GRID, stats).weight.dequantize()
    order = torch.arange(56)
    if options.get("act_order"):
        order = torch.argsort(stats.hessian.diagonal(), descending=True, stable=True)
    expected = optimal_brain(weight, full, drifted, alpha, order, options.get("static_groups", False))
    torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(actual, GPTQ(**options).round(weight, GRID, stats).weight.dequantize(), atol=1e-2)


@pytest.mark.parametrize("act_order", [False, True])
def test_gptaq_is_gptq_when_alpha_is_zero_and_when_inputs_have_not_drifted(act_order):
    weight, _, drifted, stats = paired_problem(seed=1)
    still = SiteStats.empty(56)
    still.update(drifted, drifted)
    for rounding, known in ((GPTAQ(alpha=0, act_order=act_order), stats), (GPTAQ(act_order=act_order), still)):
        expected = GPTQ(act_order=act_order).round(weight, GRID, known).weight
        assert torch.equal(rounding.round(weight, GRID, known).weight.codes, expected.codes)


def test_gptaq_brings_the_output_nearer_to_full_precision_than_gptq():
    weight, full, drifted, stats = paired_problem(32, 128)
    errors = {}
    for rounding in (GPTQ(), GPTAQ(), GPTAQ(alpha=1)):
        quantized = rounding.round(weight, GRID, stats).weight.dequantize()
        errors[getattr(rounding, "alpha", 0)] = float((drifted @ quantized.T - full @ weight.T).square().mean())
    assert errors[1] < errors[0.25] < 0.97 * errors[0]


def test_drift_is_the_cross_gram_of_the_paired_tokens_and_scales_with_the_inputs():
    _, full, drifted, stats = paired_problem()
    expected = (full - drifted).double().T @ drifted.double()
    torch.testing.assert_close(stats.drift.double(), expected, rtol=1e-4, atol=1e-3)
    scale = torch.rand(56, generator=torch.Generator().manual_seed(5)) + 0.5
    scaled = SiteStats.empty(56)
    scaled.update(drifted / scale, full / scale)
    torch.testing.assert_close(stats.scaled(scale).drift, scaled.drift, rtol=1e-3, atol=1e-2)
    merged = SiteStats.merged([stats, scaled])
    torch.testing.assert_close(merged.drift, stats.drift + scaled.drift)
    assert SiteStats.merged([stats, replace(scaled, drift=None)]).drift is None


def test_token_that_is_not_finite_in_either_precision_is_left_out_of_everything():
    _, full, drifted, _ = paired_problem()
    spoiled, also = full.clone(), drifted.clone()
    spoiled[3, 0], also[5, 1] = float("inf"), float("nan")
    dirty, clean = SiteStats.empty(56), SiteStats.empty(56)
    dirty.update(also, spoiled)
    left = torch.ones(len(full), dtype=torch.bool)
    left[[3, 5]] = False
    clean.update(drifted[left], full[left])
    assert (dirty.count, dirty.dropped) == (len(full) - 2, 2)
    torch.testing.assert_close(dirty.drift, clean.drift)
    torch.testing.assert_close(dirty.gram, clean.gram)


def test_unpaired_tokens_mean_gptq_and_a_note():
    weight, stats = problem(4, 32)
    rounded = GPTAQ().round(weight, GRID, stats)
    assert torch.equal(rounded.weight.codes, GPTQ().round(weight, GRID, stats).weight.codes)
    assert "routing" in rounded.notes[0]


def test_full_precision_statistics_are_refused_in_one_line():
    with pytest.raises(InputError, match=r"^rounding=gptaq with stats=fp: allowed only with stats=propagate$"):
        check_command_line(["method=gptaq", "stats=fp"], multirun=False)
    with pytest.raises(ValueError, match="alpha=2: allowed"):
        GPTAQ(alpha=2)


def test_settings_are_those_of_the_authors_code():
    rounding = check_command_line(["method=gptaq"], multirun=False)[0].rounding
    assert rounding == GPTAQ(
        damp_percent=0.01, block_size=128, act_order=False, static_groups=False, true_sequential=True, alpha=0.25
    )
