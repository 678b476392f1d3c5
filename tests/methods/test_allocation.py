"""Allocation: which weights are kept, against their definitions evaluated on the data itself in float64."""

import numpy as np
import pytest
import torch

from quantbench.formats import IntBilevel, IntFormat
from quantbench.methods.allocation import DenseSparse, Keep, OutlierColumns, SpQR
from quantbench.methods.allocation.spqr import leave_one_out
from quantbench.methods.grid import Grid
from quantbench.methods.range import MinMax
from quantbench.methods.rounding import GPTQ, RTN
from quantbench.methods.stats import SiteStats

GRID = Grid(IntFormat(bits=3, group_size=16, scale_dtype="float32"), MinMax())


def data(rows: int = 24, columns: int = 48, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, SiteStats]:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.eye(columns) + 0.3 * torch.randn(columns, columns, generator=generator) / columns**0.5
    strength = torch.exp(torch.randn(columns, generator=generator))
    inputs = (torch.randn(6 * columns, columns, generator=generator) @ mix) * strength
    stats = SiteStats.empty(columns)
    stats.update(inputs)
    stats.fisher = torch.rand(rows, columns, generator=generator)
    return torch.randn(rows, columns, generator=generator), inputs, stats


def definitions(weight: torch.Tensor, inputs: torch.Tensor, stats: SiteStats) -> dict[str, np.ndarray]:
    """The scores of the criteria, written out over the data."""
    w, x = weight.double().numpy(), inputs.double().numpy()
    groups = w.reshape(len(w), -1, 16)
    low, high = np.minimum(groups.min(-1, keepdims=True), 0), np.maximum(groups.max(-1, keepdims=True), 0)
    scale = (high - low) / 7
    zero = np.round(-low / scale)
    rounded = ((np.clip(np.round(groups / scale) + zero, 0, 7) - zero) * scale).reshape(w.shape)
    hessian = x.T @ x / len(x)
    hessian += 0.01 * np.diag(hessian).mean() * np.eye(len(hessian))
    return {
        "magnitude": np.abs(w),
        "activation": np.abs(w) * np.sqrt((x**2).sum(0)),
        "hessian": (w - rounded) ** 2 / np.diag(np.linalg.inv(hessian)),
        "fisher": stats.fisher.double().numpy(),
    }


@pytest.mark.parametrize("scope", ["matrix", "row"])
@pytest.mark.parametrize("criterion", ["magnitude", "activation", "hessian", "fisher"])
def test_kept_weights_are_the_top_of_the_criterion(criterion, scope):
    weight, inputs, stats = data()
    scores = definitions(weight, inputs, stats)[criterion]
    kept = Keep(criterion=criterion, fraction=0.05, scope=scope).keep(weight, GRID, stats).mask.numpy()
    parts = zip(scores, kept, strict=True) if scope == "row" else [(scores.ravel(), kept.ravel())]
    for values, mask in parts:
        assert mask.sum() == round(0.05 * values.size)
        assert values[mask].min() > values[~mask].max()


def test_criteria_disagree_so_that_a_sweep_over_them_says_something():
    weight, _, stats = data()
    masks = [
        Keep(criterion=c, fraction=0.05).keep(weight, GRID, stats).mask.expand_as(weight)
        for c in ("magnitude", "activation", "channel", "hessian", "fisher", "random")
    ]
    for i, one in enumerate(masks):
        for other in masks[i + 1 :]:
            assert (one & other).sum() < 0.9 * one.sum()


def test_channel_keeps_the_whole_columns_of_the_strongest_inputs():
    weight, inputs, stats = data()
    kept = Keep(criterion="channel", fraction=0.05).keep(weight, GRID, stats).mask
    strongest = inputs.double().abs().mean(0).argsort(descending=True)[: round(0.05 * 48)]
    expected = torch.zeros(48, dtype=torch.bool)
    expected[strongest] = True
    assert torch.equal(kept, expected.expand_as(kept))


def test_random_is_repeatable_and_differs_between_seeds_and_matrices():
    weight, _, _ = data()
    masks = [
        Keep(criterion="random", fraction=0.1, seed=seed).keep(w, GRID, None).mask
        for seed, w in ((0, weight), (0, weight), (1, weight), (0, -weight))
    ]
    assert torch.equal(masks[0], masks[1])
    for other in masks[2:]:
        assert 0 < (masks[0] & other).sum() < 0.5 * masks[0].sum()
    assert all(mask.sum() == round(0.1 * weight.numel()) for mask in masks)


@pytest.mark.parametrize("criterion", ["activation", "channel", "hessian", "fisher"])
def test_without_tokens_the_largest_weights_are_kept_and_it_is_noted(criterion):
    weight, _, _ = data()
    kept = Keep(criterion=criterion, fraction=0.1).keep(weight, GRID, SiteStats.empty(48))
    assert torch.equal(kept.mask, Keep(fraction=0.1).keep(weight, GRID, None).mask)
    assert kept.notes == ("no calibration token reached it: its largest weights kept",)


def test_fisher_without_gradients_is_refused():
    weight, _, stats = data()
    stats.fisher = None
    with pytest.raises(ValueError, match="no squared gradients were collected"):
        Keep(criterion="fisher").keep(weight, GRID, stats)


@pytest.mark.parametrize("rounding", [RTN(), GPTQ(), GPTQ(act_order=True)], ids=["rtn", "gptq", "gptq-act_order"])
def test_kept_outliers_do_no_harm_and_cost_four_bytes_each(rounding):
    weight, _, stats = data()
    tame = rounding.round(weight, GRID, stats).weight
    without_outliers = stats.output_error(tame.dequantize() - weight)
    weight[::3, 5] *= 100
    plain = rounding.round(weight, GRID, stats).weight
    assert stats.output_error(plain.dequantize() - weight) > 1.5 * without_outliers, "or the test shows nothing"
    mask = Keep(fraction=0.01).keep(weight, GRID, stats).mask
    kept = rounding.round(weight, GRID, stats, keep=mask).weight
    assert stats.output_error(kept.dequantize() - weight) < without_outliers
    assert kept.nbytes - plain.nbytes == 4 * int(mask.sum()) + 4 * (len(weight) + 1)
    assert kept.bits_per_weight == 8 * kept.pack().nbytes / weight.numel()


@pytest.mark.parametrize("sensitivity", ["fisher", "hessian"])
def test_dense_sparse_keeps_the_most_sensitive_and_the_largest_of_the_others(sensitivity):
    weight, inputs, stats = data(48, 96)
    allocation = DenseSparse(outliers=0.01, sensitive=0.005, sensitivity=sensitivity)
    kept = allocation.keep(weight, GRID, stats).mask.numpy().ravel()
    order = np.argsort(-definitions(weight, inputs, stats)[sensitivity].ravel())
    sensitive = set(order[: round(0.005 * weight.numel())].tolist())
    by_size = np.argsort(-np.abs(weight.double().numpy()).ravel()).tolist()
    largest = [i for i in by_size if i not in sensitive][: round(0.01 * weight.numel())]
    assert set(np.flatnonzero(kept).tolist()) == sensitive | set(largest)


def test_dense_sparse_without_sensitive_weights_needs_no_data():
    allocation = DenseSparse(sensitive=0)
    assert not allocation.needs_calibration
    assert not allocation.needs_fisher
    weight, _, _ = data()
    assert allocation.keep(weight, GRID, None).mask.sum() == round(0.0045 * weight.numel())


def test_leave_one_out_is_a_refit_of_the_group_without_each_weight():
    """Every weight left out in turn, in float64; SpQR, sec. 4.1."""
    weight, _, _ = data(12, 16)
    cost = torch.rand(16, generator=torch.Generator().manual_seed(3)) + 0.1

    def error(group, costs):
        low, high = min(group.min(), 0), max(group.max(), 0)
        scale = (high - low) / 7
        rounded = (np.clip(np.round(group / scale - low / scale), 0, 7) + low / scale) * scale
        return float(((rounded - group) ** 2 * costs).sum())

    w, c = weight.double().numpy(), cost.double().numpy()
    expected = [[error(r, c) - error(np.delete(r, j), np.delete(c, j)) for j in range(16)] for r in w]
    found = leave_one_out(weight, cost, IntBilevel(bits=3, group_size=16))
    torch.testing.assert_close(found.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-3, atol=1e-5)


# The authors' code (github.com/Vahe1994/SpQR at 543d10e, spqr_engine.SPQRUtil.quantize with 3 bits, groups of 16,
# 3-bit scales and zero-points in groups of 16, threshold 0.2, percdamp 1) on data(64, 128): the error of the layer's
# output, tr(dW H dW^T), and the share of outliers. They decide in the loop what we decide before it: see SpQR.
AUTHORS_SPQR = {
    "act_order": ((632.75, 0.01697), {}),
    "simplified": ((794.66, 0.00964), {"simplified": True}),
}


@pytest.mark.parametrize("case", AUTHORS_SPQR)
def test_spqr_agrees_with_the_authors_code(case):
    (error, share), options = AUTHORS_SPQR[case]
    weight, _, stats = data(64, 128)
    grid = Grid(IntBilevel(bits=3, group_size=16), MinMax())
    kept = SpQR(**options).keep(weight, grid, stats).mask
    rounding = GPTQ(damp_percent=1.0, act_order=True)
    quantized = rounding.round(weight, grid, stats, keep=kept).weight
    assert float(kept.float().mean()) == pytest.approx(share, rel=0.1)
    assert stats.output_error(quantized.dequantize() - weight) < 1.15 * error


def test_spqr_threshold_trades_outliers_for_error():
    weight, _, stats = data(64, 128)
    grid = Grid(IntBilevel(bits=3, group_size=16), MinMax())
    shares, errors = [], []
    for threshold in (0.05, 0.2, 1.0, 1e9):
        kept = SpQR(threshold=threshold).keep(weight, grid, stats).mask
        shares.append(int(kept.sum()))
        quantized = RTN().round(weight, grid, stats, keep=kept).weight
        errors.append(stats.output_error(quantized.dequantize() - weight))
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == 0
    assert errors == sorted(errors)


def test_spqr_without_tokens_keeps_nothing_and_says_so():
    weight, _, _ = data()
    kept = SpQR().keep(weight, GRID, SiteStats.empty(48))
    assert kept.mask is None
    assert kept.notes == ("no calibration token reached it: no outliers chosen",)


def test_spqr_keeps_nothing_of_channels_that_were_never_active():
    weight, inputs, _ = data()
    stats = SiteStats.empty(48)
    stats.update(inputs * (torch.arange(48) != 7))
    kept = SpQR(threshold=0.01).keep(weight, GRID, stats).mask
    assert kept.any()
    assert not kept[:, 7].any()


@pytest.mark.parametrize(
    ("criterion", "calibration", "fisher"),
    [("magnitude", False, False), ("random", False, False), ("hessian", True, False), ("fisher", True, True)],
)
def test_data_is_asked_for_only_where_the_criterion_looks_at_it(criterion, calibration, fisher):
    allocation = Keep(criterion=criterion)
    assert (allocation.needs_calibration, allocation.needs_fisher) == (calibration, fisher)


@pytest.mark.parametrize(
    "build",
    [
        lambda: Keep(criterion="size"),
        lambda: Keep(fraction=1.5),
        lambda: Keep(scope="block"),
        lambda: DenseSparse(outliers=-0.1),
        lambda: DenseSparse(outliers=0.6, sensitive=0.5),
        lambda: DenseSparse(sensitivity="magnitude"),
        lambda: SpQR(threshold=0),
        lambda: SpQR(damp_percent=2),
    ],
)
def test_out_of_range_hyperparameters_are_refused(build):
    with pytest.raises(ValueError, match="allowed are"):
        build()


def test_columns_that_read_outliers_stay_and_do_not_widen_the_range_of_the_others():
    generator = torch.Generator().manual_seed(0)
    inputs, weight = torch.randn(200, 32, generator=generator), torch.randn(8, 32, generator=generator)
    inputs[17, 5], inputs[40, 9], weight[:, 5] = -6.0, 5.99, 50.0
    stats = SiteStats.empty(32)
    stats.update(inputs)
    grid = Grid(IntFormat(bits=8, group_size=None, symmetric=True, narrow_range=True, scale_dtype="float32"), MinMax())
    kept = OutlierColumns().keep(weight, grid, stats)
    assert kept.mask[0].nonzero()[:, 0].tolist() == [5]
    rounded = RTN().round(weight, grid, stats, keep=kept.mask).weight
    others = [column for column in range(32) if column != 5]
    torch.testing.assert_close(rounded.scale[:, 0], weight[:, others].abs().amax(1) / 127)
    assert torch.equal(rounded.dequantize()[:, 5], weight[:, 5])
    assert OutlierColumns().keep(weight, grid, SiteStats.empty(32)).mask is None
