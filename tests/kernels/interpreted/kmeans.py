"""Lloyd's iterations: the kernel against torch, to the last bit, and inside the method."""

import pytest
import torch

from quantbench.kernels.kmeans import reference, triton
from quantbench.methods.range.clustering import weighted_kmeans


def problem(rows, n, count, *, empty=False):
    """Sorted values with sums and random cuts; with ``empty``, clusters without values and without weight."""
    generator = torch.Generator().manual_seed(n + count)
    values = torch.randn(rows, n, generator=generator).sort(1).values
    weights = torch.exp(2 * torch.randn(rows, n, generator=generator))
    inner = torch.randint(n + 1, (rows, count - 1), generator=generator).sort(1).values
    if empty:
        weights[:, : n // 2] = 0
        inner[:, : count // 2] = 0
    sums = torch.stack([weights, weights * values]).double().cumsum(2)
    cuts = torch.cat([torch.zeros(rows, 1).long(), inner, torch.full((rows, 1), n)], 1)
    return values, torch.nn.functional.pad(sums, (1, 0)), cuts


@pytest.mark.parametrize("iterations", [1, 50])
@pytest.mark.parametrize(
    ("rows", "n", "count", "empty"), [(3, 120, 16, False), (2, 128, 11, False), (2, 40, 1, False), (2, 65, 8, True)]
)
def test_centers_are_those_of_torch(rows, n, count, empty, iterations, poisoned):
    arguments = (*problem(rows, n, count, empty=empty), iterations)
    assert torch.equal(triton.lloyd(*arguments), reference.lloyd(*arguments))


def test_iterations_move_the_centers():
    values, sums, cuts = problem(2, 120, 16)
    assert not torch.equal(triton.lloyd(values, sums, cuts, 1), triton.lloyd(values, sums, cuts, 50))


def test_the_method_goes_through_the_kernel(monkeypatch):
    values, weights = torch.randn(2, 2, 64, generator=torch.Generator().manual_seed(0))
    ours = weighted_kmeans(values, weights.abs(), 4, iterations=50)
    called = []
    monkeypatch.setattr(triton, "lloyd", lambda *a: called.append(1) or reference.lloyd(*a))
    assert torch.equal(ours, weighted_kmeans(values, weights.abs(), 4, iterations=50))
    assert called
