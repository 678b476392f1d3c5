"""Cayley SGD against the solution of a problem that has one, and what a learned rotation may be combined with."""

import pytest
import torch

from quantbench.config import check_command_line
from quantbench.errors import InputError
from quantbench.methods.transform import SpinQuant
from quantbench.methods.transform.stiefel import CayleySGD


def orthogonal(size: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]


def test_descent_finds_the_rotation_of_procrustes_and_never_leaves_the_manifold():
    """min |A R - B| over orthogonal R is U V^T for A^T B = U S V^T (Schoenemann 1966)."""
    a = torch.randn(40, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start = orthogonal(12, 1)
    target = start @ torch.linalg.matrix_exp(0.2 * (orthogonal(12, 2) - orthogonal(12, 2).T))
    b = a @ target + 0.1 * torch.randn(40, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    u, _, v = torch.linalg.svd(a.T @ b)
    r = start.clone().requires_grad_()
    optimizer = CayleySGD([r], lr=1.5)
    for _ in range(300):
        optimizer.zero_grad()
        (0.005 * (a @ r - b).square().sum()).backward()
        optimizer.step()
        assert (r.detach().T @ r.detach() - torch.eye(12)).abs().max() < 1e-10
    assert (start - u @ v).abs().max() > 0.1
    torch.testing.assert_close(r.detach(), u @ v, rtol=0, atol=1e-3)


def test_a_step_is_as_long_as_the_rate_or_as_the_gradient_allows():
    """R (I + A)^-1 (I - A) with A = t skew(R^T G) / 2: to first order R - t R skew(R^T G)."""
    for scale, length in ((1e-4, 1.5), (1e4, None)):
        r = orthogonal(6, 0).requires_grad_()
        gradient = scale * torch.randn(6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        before, r.grad = r.detach().clone(), gradient
        CayleySGD([r], lr=1.5).step()
        skew = (before.T @ gradient - gradient.T @ before) / 2
        step = length or 1 / float(torch.linalg.matrix_norm(skew, 1))
        exact = before @ torch.linalg.matrix_exp(-step * skew)
        torch.testing.assert_close(r.detach(), exact, rtol=0, atol=0.1 * float((exact - before).abs().max()))


def test_it_is_refused_where_nothing_is_quantized_at_run_time():
    with pytest.raises(
        InputError, match=r"transform=spinquant .*allowed only with activation or kv_cache other than no"
    ):
        check_command_line(["transform=spinquant"], multirun=False)
    (config,) = check_command_line(["method=spinquant", "seed=3"], multirun=False)
    assert config.transform == SpinQuant(seed=3, online=True, steps=100, lr=1.5, batch_size=8)
    assert config.variant().needs_calibration


@pytest.mark.parametrize("changes", [{"steps": -1}, {"lr": 0}, {"batch_size": 0}, {"block_size": 92}])
def test_out_of_range_hyperparameters_are_refused(changes):
    with pytest.raises(ValueError, match=rf"transform\.{next(iter(changes))}=.*allowed"):
        SpinQuant(**changes)
