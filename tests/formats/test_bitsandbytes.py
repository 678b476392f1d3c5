"""bitsandbytes as the witness of NF4, FP4 and double quantization: live where it is installed, from a file elsewhere.

``python -m tests.formats.test_bitsandbytes`` writes the file anew.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from quantbench.formats import Codebook
from quantbench.methods.grid import Grid
from quantbench.methods.range import MinMax

GOLDEN = Path(__file__).parents[1] / "data" / "bitsandbytes.npz"
CASES = [(code, block) for code in ("nf4", "fp4") for block in (64, 128)]


def sample(rows: int = 32, columns: int = 1024, seed: int = 0) -> torch.Tensor:
    """Rows of different sizes; a block of zeros, a constant block, ties between codes, and an outlier."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator) * torch.randn(rows, 1, generator=generator).exp()
    weight[0, :128] = 0
    weight[1, :128] = 0.25
    weight[2, :128] = torch.linspace(-12, 12, 128)
    weight[3, 5] = 3000
    return weight


def witness(weight: torch.Tensor, code: str, block: int) -> dict[str, np.ndarray]:
    """What bitsandbytes' CPU kernels make of a weight [rows, columns], without and with double quantization."""
    functional = pytest.importorskip("bitsandbytes").functional
    packed, state = functional.quantize_4bit(weight, blocksize=block, quant_type=code)
    nested = functional.quantize_4bit(weight, blocksize=block, quant_type=code, compress_statistics=True)[1]
    found = {
        "packed": packed[:, 0],
        "absmax": state.absmax,
        "nested": nested.absmax,
        "nested_absmax": nested.state2.absmax,
        "nested_mean": nested.offset.view(1),
        "nested_scale": functional.dequantize_blockwise(nested.absmax, nested.state2) + nested.offset,
        "values": functional.dequantize_4bit(packed, state),
    }
    return {key: value.numpy() for key, value in found.items()}


def compare(weight: torch.Tensor, code: str, block: int, expected: dict[str, torch.Tensor]) -> None:
    """Ours equal to the witness, bit for bit."""
    plain = Grid(Codebook(code=code, group_size=block), MinMax()).nearest(weight, None)
    high, low = plain.codes.flatten()[::2], plain.codes.flatten()[1::2]
    assert torch.equal(high << 4 | low, expected["packed"])
    assert torch.equal(plain.scale.flatten(), expected["absmax"])
    if "values" in expected:
        assert torch.equal(plain.dequantize(), expected["values"])
    double = Grid(Codebook(code=code, group_size=block, double_quant=True), MinMax()).nearest(weight, None)
    assert double.levels is not None
    assert torch.equal(double.levels["scale"], expected["nested"])
    assert torch.equal(double.levels["scale_absmax"], expected["nested_absmax"])
    assert torch.equal(double.levels["scale_mean"], expected["nested_mean"])
    assert torch.equal(double.scale.flatten(), expected["nested_scale"].clamp(min=0))


@pytest.mark.parametrize(("code", "block"), CASES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_codes_and_scales_are_those_of_bitsandbytes(code, block, seed):
    weight = sample(rows=60, seed=seed)  # 960 or 480 scales: the last block of 256 is ragged
    found = witness(weight, code, block)
    compare(weight, code, block, {key: torch.from_numpy(value) for key, value in found.items()})


@pytest.mark.parametrize(("code", "block"), CASES)
def test_codes_and_scales_are_those_that_bitsandbytes_gave(code, block):
    with np.load(GOLDEN) as stored:
        weight = torch.from_numpy(stored["weight"])
        prefix = f"{code}-{block}-"
        names = [name for name in stored.files if name.startswith(prefix)]
        compare(weight, code, block, {name.removeprefix(prefix): torch.from_numpy(stored[name]) for name in names})


@pytest.mark.parametrize("code", ["nf4", "fp4"])
def test_double_quantization_is_nowhere_worse_than_that_of_bitsandbytes(code):
    functional = pytest.importorskip("bitsandbytes").functional
    weight = torch.randn(64, 1024, generator=torch.Generator().manual_seed(0))
    theirs = functional.dequantize_4bit(*functional.quantize_4bit(weight, quant_type=code, compress_statistics=True))
    ours = Grid(Codebook(code=code, double_quant=True), MinMax()).nearest(weight, None).dequantize()
    assert ((ours - weight).abs() <= (theirs - weight).abs() + 1e-6).all()
    assert (ours - weight).square().sum() < (theirs - weight).square().sum()


if __name__ == "__main__":
    small = sample(rows=8)
    arrays = {"weight": small.numpy()}
    for case in CASES:
        found = witness(small, *case)
        arrays |= {f"{case[0]}-{case[1]}-{key}": value for key, value in found.items() if key != "values"}
    np.savez_compressed(GOLDEN, **arrays)
