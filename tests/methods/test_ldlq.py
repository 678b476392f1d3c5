"""LDLQ against GPTQ, which it must equal on a fixed grid, and against its definition written out."""

import pytest
import torch

from quantbench.formats import IntFormat
from quantbench.methods.grid import Grid
from quantbench.methods.range import MinMax
from quantbench.methods.rounding import GPTQ, LDLQ
from quantbench.methods.stats import SiteStats
from tests.methods.problems import in_float64, problem

CASES = {
    "w4-row": (IntFormat(bits=4, group_size=None), {}),
    "w2-g16-sym": (IntFormat(bits=2, group_size=16, symmetric=True), {}),
    "w3-g20-ragged-block7": (IntFormat(bits=3, group_size=20), {"block_size": 7}),
    "w3-g16-act_order": (IntFormat(bits=3, group_size=16), {"act_order": True}),
    "w3-tensor-damp0.1": (IntFormat(bits=3, per_tensor=True), {"damp_percent": 0.1}),
}


def proxy_error(delta: torch.Tensor, stats: SiteStats, damp: float = 0.01) -> float:
    """tr(delta H delta^T) with the damped H, which is what the roundings minimise."""
    hessian = stats.hessian.double()
    hessian += damp * hessian.diagonal().mean() * torch.eye(len(hessian))
    return float(((delta.double() @ hessian) * delta.double()).sum())


@pytest.mark.parametrize("kept", [0, 0.03], ids=["dense", "outliers"])
@pytest.mark.parametrize(("format", "options"), CASES.values(), ids=CASES.keys())
def test_ldlq_equals_gptq_code_for_code_in_float64(format, options, kept):
    weight, stats = in_float64(*problem(24, 90))
    keep = torch.rand(weight.shape, generator=torch.Generator().manual_seed(2)) < kept if kept else None
    grid = Grid(format, MinMax())
    ldlq = LDLQ(**options).round(weight, grid, stats, keep=keep).weight
    gptq = GPTQ(static_groups=True, **options).round(weight, grid, stats, keep=keep).weight
    assert torch.equal(ldlq.codes, gptq.codes)
    assert torch.equal(ldlq.dequantize(), gptq.dequantize())
    assert len(ldlq.codes.unique()) > 2


def test_ldlq_equals_gptq_in_float32_but_for_weights_on_a_codes_edge():
    weight, stats = problem(64, 256)
    grid = Grid(IntFormat(bits=4, group_size=64), MinMax())
    ldlq, gptq = (r.round(weight, grid, stats).weight.codes for r in (LDLQ(), GPTQ(static_groups=True)))
    assert (ldlq == gptq).float().mean() > 0.995


def test_authors_order_from_last_to_first_is_the_lower_factor_and_equals_gptq_reversed():
    weight, stats = in_float64(*problem(20, 48, seed=3))
    grid = Grid(IntFormat(bits=3, group_size=None), MinMax())
    # Chee et al.'s code: H = L L^T, L scaled to a unit diagonal, feedback from columns that lie behind
    hessian = stats.hessian + 0.01 * stats.hessian.diagonal().mean() * torch.eye(48)
    lower = torch.linalg.cholesky(hessian)
    lower = lower / lower.diagonal() - torch.eye(48)
    settled = grid.fit_groups(weight, None)
    expected = torch.zeros_like(weight)
    for k in reversed(range(48)):
        target = weight[:, k] + (weight - expected)[:, k + 1 :] @ lower[k + 1 :, k]
        params = settled.params.at(0)
        expected[:, k] = grid.format.decode(grid.format.encode(target, params), params)
    backwards = SiteStats(stats.gram.flip(0, 1), stats.absmax.flip(0), stats.abs_sum.flip(0), stats.count)
    for rounding in (LDLQ(), GPTQ(static_groups=True)):
        actual = rounding.round(weight.flip(1), grid, backwards).weight.dequantize().flip(1)
        torch.testing.assert_close(actual.double(), expected, rtol=1e-6, atol=1e-6)


def test_greedy_passes_are_coordinate_descent_on_the_proxy_error():
    weight, stats = in_float64(*problem(16, 40))
    grid = Grid(IntFormat(bits=2, group_size=20), MinMax())
    hessian = stats.hessian
    settled = grid.fit_groups(weight, None)
    rounded = LDLQ().round(weight, grid, stats).weight.dequantize().double()
    for sweep in (1, 2):
        for k in range(40):
            params = settled.params.at(k // 20)
            values = torch.stack([grid.format.decode(torch.full((16,), c), params) for c in range(4)]).double()
            tried = rounded.expand(4, -1, -1).clone()
            tried[:, :, k] = values
            errors = torch.einsum("cri,ij,crj->cr", weight - tried, hessian, weight - tried)
            rounded[:, k] = values.gather(0, errors.argmin(0)[None])[0]
        actual = LDLQ(greedy_passes=sweep, block_size=16).round(weight, grid, stats).weight.dequantize()
        torch.testing.assert_close(actual.double(), rounded, rtol=1e-6, atol=1e-6)


def test_greedy_passes_lower_the_proxy_error():
    weight, stats = problem(32, 96)
    grid = Grid(IntFormat(bits=2, group_size=32), MinMax())
    errors = [
        stats.output_error(LDLQ(greedy_passes=p).round(weight, grid, stats).weight.dequantize() - weight)
        for p in (0, 1, 4)
    ]
    assert errors[0] > 1.01 * errors[1] >= 1.01 * errors[2]


def test_never_active_columns_and_missing_tokens_are_treated_as_by_gptq():
    weight, stats = problem(4, 12)
    grid = Grid(IntFormat(bits=4, group_size=None), MinMax())
    stats.gram[3], stats.gram[:, 3] = 0, 0
    rounded = LDLQ(greedy_passes=1).round(weight, grid, stats)
    assert rounded.weight.dequantize()[:, 3].abs().max() == 0
    assert "1 input channels never active" in rounded.notes[0]
    assert "no calibration token" in LDLQ().round(weight, grid, SiteStats.empty(12)).notes[0]


def test_negative_number_of_passes_is_refused():
    with pytest.raises(ValueError, match="greedy_passes=-1: allowed"):
        LDLQ(greedy_passes=-1)
