"""Learned step sizes against the formulas of their papers, in float64, and against finite differences."""

from dataclasses import replace

import pytest
import torch

from quantbench.formats import IntFormat, Ternary
from quantbench.formats.outliers import Outliers
from quantbench.methods.grid import Grid
from quantbench.methods.range import AbsMean, MinMax
from quantbench.methods.rounding import GPTQ
from quantbench.methods.rounding.learned_step import LearnedStep, Rates, lsq_gradient_scale, lsq_step_sizes
from quantbench.methods.training import LSQ, QAT
from quantbench.methods.training.weights import FixedCodes, Refitted
from tests.methods.problems import problem

ALL = Rates(1e-3, 1e-3, 1e-3)
FORMATS = {
    "asym": IntFormat(2, 16),
    "sym": IntFormat(3, 16, symmetric=True),
    "ragged": IntFormat(3, 24),
    "row": IntFormat(4, None),
    "tensor": IntFormat(3, per_tensor=True, symmetric=True),
    "real-zero-point": IntFormat(2, 16, zero_point_dtype="float16"),
    "ternary": Ternary(group_size=None, per_tensor=True),
}


def weights(rows=6, columns=64):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))


def nearest(weight, format):
    return Grid(format, AbsMean() if isinstance(format, Ternary) else MinMax()).nearest(weight, None)


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_gradients_are_equation_3_and_5_of_lsq(bits):
    """d v / d s = -v/s + round(v/s) inside (-Q_N, Q_P), otherwise -Q_N or Q_P; d v / d w = 1 inside, otherwise 0."""
    format = IntFormat(bits, 16, symmetric=True, scale_dtype="float32")
    weight, upstream = weights(), torch.randn(6, 64, generator=torch.Generator().manual_seed(1))
    start = nearest(0.5 * weight, format)  # so that many weights are clipped
    step = LearnedStep(weight, start, Rates(1.0, 1.0, None), margin=0.0)
    latent, scale = torch.autograd.grad((step.value() * upstream).sum(), [step.latent, step.scale])
    q_n, q_p = 2 ** (bits - 1), 2 ** (bits - 1) - 1
    ratio = weight.double().view(6, 4, 16) / start.scale.double()[..., None]
    inside = (-q_n < ratio) & (ratio < q_p)
    per_step = torch.where(inside, ratio.round() - ratio, ratio.clamp(-q_n, q_p))
    expected = (per_step * upstream.double().view(6, 4, 16)).sum(-1)
    assert 0 < inside.sum() < inside.numel()
    torch.testing.assert_close(scale.double(), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(latent.view(6, 4, 16), torch.where(inside, upstream.view(6, 4, 16), 0))


def test_zero_point_moves_what_is_clipped():
    """LSQ+ (arXiv 2004.09576): the offset of a clipped weight's value follows the zero-point by -scale, inside by 0."""
    format = IntFormat(2, 16, scale_dtype="float32")
    weight, start = weights(), nearest(0.5 * weights(), format)
    step = LearnedStep(weight, start, ALL)
    (zero,) = torch.autograd.grad(step.value().sum(), [step.zero_point])
    code = torch.round(weight.view(6, 4, 16) / start.scale[..., None]) + start.zero_point[..., None]
    clipped = ((code < 0) | (code > 3)).sum(-1)
    assert int(clipped.sum()) > 0
    torch.testing.assert_close(zero, -start.scale * clipped)


def test_gradient_scale_and_first_step_are_those_of_the_paper():
    format, weight = IntFormat(3, 16, symmetric=True, scale_dtype="float32"), weights()
    start = nearest(weight, format)
    assert lsq_gradient_scale(16, start) == pytest.approx(1 / (16 * 3) ** 0.5)
    mean = weight.view(6, 4, 16).abs().mean(-1)
    torch.testing.assert_close(lsq_step_sizes(weight, start).scale, 2 * mean / 3**0.5)
    plain, scaled = (LearnedStep(weight, start, ALL, margin=0.0, scaled_gradient=on) for on in (False, True))
    gradients = [torch.autograd.grad(step.value().square().sum(), [step.scale])[0] for step in (plain, scaled)]
    torch.testing.assert_close(gradients[1], gradients[0] / (16 * 3) ** 0.5)
    assert torch.equal(plain.value(), scaled.value())


def test_gradient_of_fixed_codes_is_that_of_finite_differences():
    start = nearest(weights(), IntFormat(2, 16, scale_dtype="float32"))
    fixed = FixedCodes(start, 1.0)
    (gradient,) = torch.autograd.grad(fixed.value().square().sum(), [fixed.scale])

    def loss(row, group, by):
        scale = start.scale.double().clone()
        scale[row, group] += by
        codes = start.codes.double().view(6, 4, 16) - start.zero_point.double()[..., None]
        return (codes * scale[..., None]).square().sum()

    for row, group in ((0, 0), (3, 2)):
        numeric = (loss(row, group, 1e-6) - loss(row, group, -1e-6)) / 2e-6
        assert float(gradient[row, group]) == pytest.approx(float(numeric), rel=1e-4)


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("kept", [False, True], ids=["plain", "kept"])
def test_what_is_trained_is_what_is_stored(format, kept):
    """After steps of an optimiser, values in training equal those of the packed and unpacked result, bit for bit."""
    weight = weights()
    start = nearest(weight, format)
    mask = torch.zeros(weight.shape, dtype=torch.bool)
    mask[::2, ::7] = True
    start = replace(start, outliers=Outliers.of(weight, mask)) if kept else start
    tried = [LearnedStep(weight, start, ALL, scaled_gradient=True), FixedCodes(start, 1e-3)]
    if not kept:
        tried.append(Refitted(weight, Grid(format, AbsMean() if isinstance(format, Ternary) else MinMax()), 1e-3))
    for trained in tried:
        optimizer = torch.optim.SGD(trained.groups())
        for _ in range(3):
            optimizer.zero_grad()
            (trained.value() - 1.1 * weight).square().sum().backward()
            optimizer.step()
            trained.project_()
        result = trained.result()
        back = type(result).unpack(result.pack(), format=format)
        assert torch.equal(back.dequantize(), trained.value().detach())
        assert result.nbytes == start.nbytes
        assert not torch.equal(result.dequantize(), start.dequantize())


def test_columns_in_the_order_of_act_order_keep_their_groups():
    weight, stats = problem(8, 64)
    grid = Grid(IntFormat(3, 16), MinMax())
    start = GPTQ(act_order=True).round(weight, grid, stats).weight
    assert start.group_index is not None
    dequantized = start.dequantize()
    for trained in (LearnedStep(dequantized, start, ALL), FixedCodes(start, 1.0)):
        assert torch.equal(trained.value(), dequantized)
        assert torch.equal(trained.result().codes, start.codes)


def test_a_start_from_dequantized_weights_is_what_the_walk_gave():
    weight, stats = problem(8, 64)
    start = GPTQ().round(weight, Grid(IntFormat(2, 16), MinMax()), stats).weight
    assert torch.equal(QAT(start="dequantized").tunable(start, weight).result().codes, start.codes)
    again = QAT().tunable(start, weight).result()
    assert not torch.equal(again.codes, start.codes)
    assert torch.equal(again.scale, start.scale)


def test_bitnets_estimator_is_the_identity_for_clipped_weights_too():
    weight = weights()
    refitted = Refitted(weight, Grid(Ternary(group_size=None, per_tensor=True), AbsMean()), 1.0)
    upstream = torch.randn(weight.shape)
    (gradient,) = torch.autograd.grad((refitted.value() * upstream).sum(), [refitted.latent])
    assert torch.equal(gradient, upstream)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: QAT(start="walk"), "training.start=walk"),
        (lambda: QAT(lr=0), "training.lr=0"),
        (lambda: QAT(kl=0), "training.kl=0"),
        (lambda: QAT(decay="exp"), "training.decay=exp"),
        (lambda: QAT(batch_size=0), "training.batch_size=0"),
        (lambda: LSQ(init="max"), "training.init=max"),
        (lambda: LSQ(step_lr=-1), "training.step_lr=-1"),
    ],
)
def test_wrong_settings_are_named(make, says):
    with pytest.raises(ValueError, match=says):
        make()
