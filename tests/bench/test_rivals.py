"""What rivals are handed: stand-ins for libraries that need a GPU decode it again."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from quantbench.bench import rivals
from quantbench.formats import IntFormat
from quantbench.methods.grid import Grid
from quantbench.methods.range import MinMax


@pytest.fixture
def weight():
    matrix = torch.randn(48, 128, generator=torch.Generator().manual_seed(0))
    return Grid(IntFormat(bits=4, group_size=64), MinMax()).nearest(matrix, None)


@pytest.fixture
def x():
    return torch.randn(3, 128, generator=torch.Generator().manual_seed(1))


def installed(monkeypatch, name, **members):
    module = ModuleType(name)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)
    return module


def test_marlin_gets_words_in_gptqs_layout_with_scales_and_zero_points_by_group(weight, x, monkeypatch):
    """Its documented layouts before it permutes them: words [k / 8, n], scales and zero-points [groups, n]."""

    def repacked(words, perm, size_k, size_n, num_bits):
        assert words.dtype == torch.int32
        assert words.shape == (size_k * num_bits // 32, size_n)
        return torch.stack([words >> shift & 15 for shift in range(0, 32, num_bits)], 1).view(size_k, size_n)

    def product(input, codes, scale, zero, g_idx, order, workspace, kind, rows, columns):
        assert (kind, rows, columns) == ("uint4", 48, 128)
        matrix = (codes - zero.repeat_interleave(64, 0)) * scale.repeat_interleave(64, 0)
        return input @ matrix

    utils = SimpleNamespace(
        marlin_make_empty_g_idx=lambda device: torch.empty(0),
        marlin_permute_scales=lambda scale, size_k, size_n, group_size: scale,
        marlin_zero_points=lambda zero, size_k, size_n, num_bits: zero,
        marlin_make_workspace_new=lambda device: torch.empty(0),
        apply_awq_marlin_linear=product,
    )
    installed(monkeypatch, "vllm", _custom_ops=SimpleNamespace(gptq_marlin_repack=repacked))
    installed(monkeypatch, "vllm.scalar_type", scalar_types=SimpleNamespace(uint4="uint4", uint8="uint8"))
    installed(monkeypatch, "vllm.model_executor.layers.quantization.utils", marlin_utils=utils)
    torch.testing.assert_close(rivals.marlin(weight, x)(), x @ weight.dequantize().T)


def test_gemlite_gets_codes_scales_and_zero_points_of_each_row(weight, monkeypatch):
    class Layer:
        def __init__(self, bits, group_size, in_features, out_features, input_dtype, output_dtype):
            assert (bits, group_size, in_features, out_features, input_dtype) == (4, 64, 128, 48, "fp16")

        def pack(self, codes, scales, zeros, bias):
            self.matrix = ((codes.view(48, 2, 64) - zeros[..., None]) * scales[..., None]).view(48, 128)

        def __call__(self, x):
            return x.float() @ self.matrix.float().T

    installed(monkeypatch, "gemlite", DType=SimpleNamespace(FP16="fp16", BF16="bf16"), GemLiteLinear=Layer)
    on_gpu = SimpleNamespace(is_cuda=True, dtype=torch.float16, float=lambda: torch.eye(128))
    torch.testing.assert_close(rivals.gemlite(weight, on_gpu)().T, weight.dequantize(), rtol=1e-3, atol=1e-3)
    with pytest.raises(RuntimeError, match="16 bits on a GPU"):
        rivals.gemlite(weight, torch.zeros(1, 128))


def test_onednn_multiplies_what_its_scales_say(weight, x):
    product, exact = rivals.onednn_int8(weight, x)(), x @ weight.dequantize().T
    assert (product - exact).square().mean() < 1e-3 * exact.square().mean()
