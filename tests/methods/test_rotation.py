"""Hadamard matrices against their definition, and rotations against orthogonality."""

import pytest
import torch

from quantbench.methods.transform import Hadamard, RandomRotation
from quantbench.methods.transform.hadamard_matrix import hadamard_factors, hadamard_matrix

# Hidden, intermediate and head sizes of released models, and the orders behind Paley's fields of 3^3, 5^2, 7^2, 7^3.
ORDERS = [1, 2, 4, 12, 20, 28, 36, 44, 52, 60, 80, 96, 100, 108, 128, 244, 344, 576, 768, 896, 960, 1152, 1536, 2560]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("order", ORDERS)
def test_rows_are_signs_and_orthogonal(order):
    matrix = hadamard_matrix(order)
    assert matrix.shape == (order, order)
    assert bool((matrix.abs() == 1).all())
    assert torch.equal(matrix @ matrix.T, order * torch.eye(order, dtype=torch.float64))


def test_order_11008_is_the_product_of_verified_factors():
    """Orthogonality of 11008 rows is a product too large for a test; a sample of them stands for all."""
    assert hadamard_factors(11008) == (2, 2, 2, 2, 2, 344)
    matrix = hadamard_matrix(11008)
    rows = torch.randperm(11008, generator=generator())[:24]
    expected = torch.zeros(24, 11008, dtype=torch.float64)
    expected[torch.arange(24), rows] = 11008
    assert torch.equal(matrix[rows] @ matrix.T, expected)


def test_every_order_up_to_200_that_sylvester_and_paley_give_is_built():
    """The literature has that Sylvester and Paley together leave out exactly these orders below 200."""
    missing = [order for order in range(4, 200, 4) if hadamard_factors(order) is None]
    assert missing == [92, 116, 156, 172, 184, 188]
    assert all(hadamard_factors(order) is None for order in range(3, 200) if order % 4)
    with pytest.raises(ValueError, match="order 92"):
        hadamard_matrix(92)


@pytest.mark.parametrize("rotation", [Hadamard(), Hadamard(random_signs=False), RandomRotation()], ids=repr)
@pytest.mark.parametrize(("size", "block"), [(576, 576), (64, 16), (36, 12)])
def test_rotations_are_orthogonal_and_block_diagonal(rotation, size, block):
    matrix = rotation.matrix(size, block, generator())
    assert (matrix @ matrix.T - torch.eye(size, dtype=torch.float64)).abs().max() < 1e-6
    outside = torch.arange(size)[:, None] // block != torch.arange(size) // block
    assert not matrix[outside].any()
    assert bool((matrix[~outside] != 0).all())


def test_the_seed_decides_and_blocks_differ():
    for rotation in (Hadamard(), RandomRotation()):
        first, again, other = (rotation.matrix(32, 16, generator(seed)) for seed in (0, 0, 1))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert not torch.equal(first[:16, :16], first[16:, 16:])
    plain = Hadamard(random_signs=False)
    assert torch.equal(plain.matrix(32, 32, generator(0)), plain.matrix(32, 32, generator(1)))


def test_random_rotations_are_uniform():
    """Under the uniform measure the trace has mean 0 and variance 1; QR's own sign convention has mean far from 0."""
    drawn, rotation = generator(), RandomRotation()
    traces = torch.stack([rotation.orthogonal(8, drawn).trace() for _ in range(2000)])
    assert abs(float(traces.mean())) < 0.1
    assert abs(float(traces.var()) - 1) < 0.15


def test_sizes_without_a_matrix_are_rotated_in_the_largest_blocks_that_have_one():
    assert [Hadamard().block(size) for size in (768, 172, 92, 1380)] == [768, 4, 4, 460]
    assert RandomRotation().block(172) == 172
    assert Hadamard(block_size=16).block(576) == 16
    with pytest.raises(ValueError, match=r"transform\.block_size=32: allowed are divisors of 48"):
        Hadamard(block_size=32).block(48)


@pytest.mark.parametrize(
    "build", [lambda: Hadamard(block_size=24 * 7 + 4), lambda: RandomRotation(block_size=1), lambda: Hadamard(seed=-1)]
)
def test_out_of_range_hyperparameters_are_refused(build):
    with pytest.raises(ValueError, match="allowed"):
        build()


@pytest.mark.parametrize("rotation", [Hadamard(), Hadamard(random_signs=False), RandomRotation()], ids=repr)
@pytest.mark.parametrize(("size", "block"), [(32, 8), (24, 12)])
def test_rotating_channels_is_the_product_with_the_matrix(rotation, size, block):
    x = torch.randn(5, size, dtype=torch.float64, generator=generator())
    rotated = rotation.rotation(size, block, generator(), "cpu")(x)
    assert torch.allclose(rotated, x @ rotation.matrix(size, block, generator()), rtol=0, atol=1e-12)
