"""bitsandbytes (0.50.2, CPU) as the witness of LLM.int8(): live where it is installed, from a file elsewhere.

``python -m tests.methods.activation.test_llm_int8`` writes the file anew. The product is ``MatMul8bitLt`` with weights
in int8 alone, that of a model loaded in 8 bits on a GPU; on a CPU the library's layer leaves the inputs as they are.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from quantbench.formats import IntFormat, QuantizedWeight
from quantbench.methods.activation import LLMInt8
from quantbench.methods.grid import Grid
from quantbench.methods.range import MinMax
from quantbench.models.linear import QuantLinear

GOLDEN = Path(__file__).parents[2] / "data" / "llm_int8.npz"
QUANTIZER = LLMInt8(whole_channels=False).quantizer("layers.0.q_proj", "attention_in")


def sample(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs [12, 96] with outliers in a few channels, weights [40, 96] and a bias, in float16."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(12, 96, generator=generator)
    x[2, 7], x[5, 7], x[9, 40], x[11, 41] = 9.5, -6.5, 6.0, 5.9961
    weight = torch.randn(40, 96, generator=generator) / 10
    return x.half(), weight.half(), torch.randn(40, generator=generator).half()


def witness(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> dict[str, np.ndarray]:
    """What bitsandbytes makes of them: codes and scales of both, outlier channels, the layer's output."""
    bnb = pytest.importorskip("bitsandbytes")
    codes, absmax, columns = bnb.functional.int8_vectorwise_quant(x.clone(), threshold=6.0)
    weight_codes, weight_absmax, _ = bnb.functional.int8_vectorwise_quant(weight.clone())
    state = bnb.MatmulLtState(CB=weight_codes, SCB=weight_absmax)
    state.threshold, state.has_fp16_weights = 6.0, False
    output = bnb.autograd._functions.MatMul8bitLt.apply(x.clone(), weight_codes, None, bias, state)
    found = {"codes": codes, "absmax": absmax, "columns": columns, "output": output}
    found |= {"weight_codes": weight_codes, "weight_absmax": weight_absmax}
    return {key: value.numpy() for key, value in found.items()}


def ours(weight: torch.Tensor) -> QuantizedWeight:
    format = IntFormat(bits=8, group_size=None, symmetric=True, narrow_range=True, scale_dtype="float32")
    return Grid(format, MinMax()).nearest(weight.float(), None)


def compare(expected: dict[str, torch.Tensor]) -> None:
    x, weight, bias = sample()
    quantized = ours(weight)
    assert torch.equal(quantized.codes.int() - 128, expected["weight_codes"].int())
    torch.testing.assert_close(quantized.scale[:, 0] * 127, expected["weight_absmax"])
    assert torch.equal(QUANTIZER.outlier_channels(x)[0].nonzero()[:, 0], expected["columns"].long())
    kept = QUANTIZER.outlier_channels(x).expand_as(x)
    steps = QUANTIZER(x.float()) / (expected["absmax"][:, None] / 127)
    assert torch.equal(steps.round().int()[~kept], expected["codes"].int()[~kept])
    assert torch.equal(QUANTIZER(x)[kept], x[kept])
    layer = QuantLinear(quantized, bias.float(), dtype=torch.float32, inputs=QUANTIZER)
    torch.testing.assert_close(layer(x.float()), expected["output"].float(), rtol=2e-3, atol=2e-3)  # theirs is float16


def test_codes_channels_and_outputs_are_those_that_bitsandbytes_gave():
    with np.load(GOLDEN) as stored:
        compare({key: torch.from_numpy(stored[key]) for key in stored.files})


def test_codes_channels_and_outputs_are_those_of_the_installed_bitsandbytes():
    compare({key: torch.from_numpy(value) for key, value in witness(*sample()).items()})


def test_outliers_of_one_sequence_do_not_keep_the_channel_of_another():
    x = sample()[0].float()
    batch = torch.stack([x, x.clamp(-1, 1)])
    assert torch.equal(QUANTIZER(batch)[0], QUANTIZER(x))
    assert torch.equal(QUANTIZER(batch)[1], QUANTIZER(batch[1]))


def test_a_tokens_range_is_that_of_the_channels_without_outliers():
    """Equation 8 of the paper in numpy: the columns O in full, row-wise absmax over the others."""
    x = sample()[0].float().numpy()
    outliers = (np.abs(x) >= 6).any(0)
    rest = np.where(outliers, 0, x)
    scale = np.abs(rest).max(1, keepdims=True) / np.float32(127)
    expected = np.where(outliers, x, np.rint(rest / scale) * scale)
    whole = LLMInt8().quantizer("layers.0.q_proj", "attention_in")
    np.testing.assert_allclose(whole(torch.from_numpy(x)), expected, rtol=1e-6)


def test_without_outliers_it_is_int8_per_token():
    x = sample()[0].clamp(-2, 2)
    assert torch.equal(QUANTIZER(x), QUANTIZER.rest(x))


def test_a_threshold_that_is_not_positive_is_named():
    with pytest.raises(ValueError, match=r"^activation.threshold=0: allowed are positive numbers"):
        LLMInt8(threshold=0)


if __name__ == "__main__":
    np.savez_compressed(GOLDEN, **witness(*sample()))
