"""The Walsh-Hadamard transform: the kernel against the product with Sylvester's matrix."""

import pytest
import torch

from quantbench.kernels.hadamard import triton
from quantbench.methods.transform.hadamard_matrix import hadamard_matrix


@pytest.mark.parametrize(("rows", "blocks", "block"), [(3, 5, 16), (1, 1, 512), (70, 1, 64), (2, 3, 2)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
def test_transform_is_the_product_with_the_matrix(rows, blocks, block, dtype, poisoned):
    x = torch.randn(rows, blocks * block, generator=torch.Generator().manual_seed(block)).to(dtype)
    result = triton.transform(x, block)
    assert result.dtype == dtype
    expected = (x.double().view(rows, blocks, block) @ hadamard_matrix(block) / block**0.5).view_as(x)
    assert torch.allclose(result.double(), expected, rtol=0, atol=8 * torch.finfo(dtype).eps)
