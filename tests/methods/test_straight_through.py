"""The straight-through estimator against automatic differentiation of the papers' formula, with d round(x)/dx = 1."""

import pytest
import torch

from quantbench.formats import IntFormat
from quantbench.methods.rounding.straight_through import fake_quantize

ROWS, GROUPS, SIZE = 6, 3, 16


def problem(clipped: float = 1.0):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(ROWS, GROUPS, SIZE, generator=generator)
    offset = torch.rand(weight.shape, generator=generator) - 0.5
    low, high = clipped * weight.amin(-1).clamp(max=0), clipped * weight.amax(-1).clamp(min=0)
    return [t.requires_grad_() for t in (weight, offset, low, high)], torch.randn(weight.shape, generator=generator)


def papers_formula(weight, offset, low, high, bits, symmetric):
    """AutoRound, eq. 3: clip(round(w / s + v) + zp, 0, 2^b - 1), float64."""

    def straight(x):
        return x + (torch.round(x) - x).detach()

    weight, offset, low, high = (t.double() for t in (weight, offset, low, high))
    top = 2**bits - 1
    if symmetric:
        scale = 2 * torch.maximum(-low, high) / top
        zero = torch.full_like(scale, 2 ** (bits - 1))
    else:
        scale = (high - low) / top
        zero = straight(-low / scale)
    scale, zero = scale[..., None], zero[..., None]
    return scale * ((straight(weight / scale + offset) + zero).clamp(0, top) - zero)


@pytest.mark.parametrize("symmetric", [False, True], ids=["asym", "sym"])
@pytest.mark.parametrize("clipped", [1.0, 0.7])
@pytest.mark.parametrize("bits", [2, 4])
def test_values_and_gradients_are_those_of_the_papers_formula(bits, clipped, symmetric):
    inputs, direction = problem(clipped)
    format = IntFormat(bits=bits, group_size=SIZE, symmetric=symmetric, scale_dtype="float32")
    ours = fake_quantize(*inputs, format)
    theirs = papers_formula(*inputs, bits, symmetric)
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)
    actual = torch.autograd.grad((ours * direction).sum(), inputs)
    expected = torch.autograd.grad((theirs * direction).sum(), inputs)
    for name, a, e in zip(("weight", "offset", "low", "high"), actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-3, atol=1e-3, msg=name)


def test_a_weight_outside_the_range_moves_with_the_end_of_the_range_alone():
    weight = torch.tensor([[[-3.0, 0.1, 2.0]]], requires_grad=True)
    low, high = torch.tensor([[-1.0]], requires_grad=True), torch.tensor([[1.0]], requires_grad=True)
    format = IntFormat(bits=8, group_size=3, scale_dtype="float32")
    value = fake_quantize(weight, None, low, high, format)
    # the zero-point is 128 for 127.5: half a step of what the scale adds
    for index, (d_low, d_high) in {0: (1, 0), 2: (0, 1)}.items():
        gradients = torch.autograd.grad(value[0, 0, index], (weight, low, high), retain_graph=True)
        assert gradients[0].flatten().tolist() == [0, 0, 0]
        assert [g.item() for g in gradients[1:]] == pytest.approx([d_low, d_high], abs=0.5 / 255 + 1e-6)
