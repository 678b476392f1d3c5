"""The Walsh-Hadamard transform in torch."""

import pytest
import torch

from quantbench.kernels.hadamard import transform
from quantbench.methods.transform.hadamard_matrix import hadamard_matrix


@pytest.mark.parametrize(("blocks", "block"), [(1, 1), (3, 8), (1, 64), (2, 128), (1, 2048)])
def test_transform_is_the_product_with_the_matrix(blocks, block):
    x = torch.randn(5, blocks * block, dtype=torch.float64, generator=torch.Generator().manual_seed(block))
    expected = (x.view(5, blocks, block) @ hadamard_matrix(block) / block**0.5).view_as(x)
    assert torch.allclose(transform(x, block), expected, rtol=0, atol=1e-12)
    assert torch.allclose(transform(transform(x, block), block), x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("block", [0, 12, 64])
def test_other_sizes_are_refused(block):
    with pytest.raises(ValueError, match=f"block={block}: allowed are powers of two that divide 96"):
        transform(torch.zeros(2, 96), block)
