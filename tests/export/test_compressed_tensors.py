"""The witness is the compressed-tensors package: its packing byte for byte, and its loading through transformers."""

import logging

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, CompressedTensorsConfig

from quantbench.export import LAYOUTS
from quantbench.formats import FP8, MXFP4, NVFP4, Codebook, IntFormat
from quantbench.methods.allocation import Mixed, Uniform
from tests.export.models import exported, logits, quantized

pytest.importorskip("compressed_tensors")
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

INT4 = IntFormat(bits=4, group_size=32)
FORMATS = {
    "int3-row": IntFormat(bits=3, group_size=None),
    "int8-sym-row": IntFormat(bits=8, group_size=None, symmetric=True),
    "int8-narrow-tensor": IntFormat(bits=8, symmetric=True, narrow_range=True, per_tensor=True),
    "int2-g16": IntFormat(bits=2, group_size=16),
    "fp8-row": FP8(),
    "fp8-tensor": FP8(per_tensor=True),
    "fp8-g32": FP8(group_size=32),
    "mxfp4": MXFP4(),
}


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def load_dequantized(folder, **options):
    return AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=CompressedTensorsConfig(dequantize=True), **options
    ).eval()


@pytest.mark.parametrize("name", ["llama", "llama-mha-bias", "qwen2", "qwen3", "opt", "gpt-neox", "phi3-gqa", "gemma3"])
def test_transformers_loads_every_architecture_with_the_same_logits(name, tmp_path):
    model = quantized(name, INT4)
    loaded = load_dequantized(exported(model, tmp_path / "m", "compressed_tensors"))
    assert torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
def test_transformers_loads_every_format_with_the_same_weights(format, tmp_path):
    model = quantized("llama", format)
    loaded = load_dequantized(exported(model, tmp_path / "m", "compressed_tensors"))
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert torch.equal(logits(loaded), logits(model))


def test_nvfp4_agrees_as_far_as_the_package_decodes_it_in_bfloat16(tmp_path):
    model = quantized("llama", NVFP4())
    loaded = load_dequantized(exported(model, tmp_path / "m", "compressed_tensors")).state_dict()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(loaded[name], tensor, rtol=2**-8, atol=0)


def test_a_model_in_bfloat16_agrees_to_its_last_place(tmp_path):
    """Their product scale * (code - zero_point) is rounded to float16 first, ours is not."""
    model = quantized("llama", INT4, dtype=torch.bfloat16)
    loaded = load_dequantized(exported(model, tmp_path / "m", "compressed_tensors"))
    assert loaded.dtype == torch.bfloat16
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, rtol=2**-7, atol=0)


def test_linears_of_different_bits_load_without_being_dequantized(tmp_path):
    model = quantized(
        "llama",
        IntFormat(bits=4, group_size=32, symmetric=True),
        allocation=Mixed(
            candidates=[4, 8], plan={"model.layers.1.mlp.up_proj": 8, "model.layers.0.self_attn.q_proj": 8}
        ),
    )
    loaded = AutoModelForCausalLM.from_pretrained(exported(model, tmp_path / "m", "compressed_tensors")).eval()
    assert torch.equal(logits(loaded), logits(model))


def test_skipped_linears_and_the_tokenizer_come_back_as_they_were(tmp_path):
    model = quantized("llama", INT4, allocation=Uniform(skip=["down_proj", "*.0.*"]))
    folder = exported(model, tmp_path / "m", "compressed_tensors")
    assert torch.equal(logits(load_dequantized(folder)), logits(model))
    stored = load_file(folder / "model.safetensors")
    assert "model.layers.0.mlp.up_proj.weight" in stored
    assert "model.layers.1.mlp.up_proj.weight_packed" in stored
    assert AutoTokenizer.from_pretrained(folder)("w3 w5").input_ids == [7, 9]


@pytest.mark.parametrize("bits", range(2, 9))
def test_packed_bytes_are_the_packages_own(bits, tmp_path):
    """Also for 3, 5, 6 and 7 bits, where codes straddle words, and for zero-points, packed along the outputs."""
    model = quantized("llama", IntFormat(bits=bits, group_size=32))
    stored = load_file(exported(model, tmp_path / "m", "compressed_tensors") / "model.safetensors")
    name = "model.layers.1.mlp.down_proj"
    ours, half = model.get_submodule(name).quantized, 2 ** (bits - 1)
    codes = (ours.codes.int() - half).to(torch.int8)
    zero_points = (ours.zero_point.int() - half).to(torch.int8)
    assert torch.equal(stored[f"{name}.weight_packed"], pack_to_int32(codes, bits))
    assert torch.equal(stored[f"{name}.weight_zero_point"], pack_to_int32(zero_points, bits, packed_dim=0))


@pytest.mark.parametrize(
    ("formats", "options", "message"),
    [
        ([Codebook()], {}, "cannot hold format=Codebook; allowed are format=int"),
        ([FP8(element="e5m2")], {}, "cannot hold format.element=e5m2"),
        ([IntFormat(zero_point_dtype="float16")], {}, "zero_point_dtype=float16; allowed are zero-points"),
        ([INT4], {"keeps_weights": True}, "weights kept in 16 bits .* allowed are allocation=uniform"),
        ([INT4], {"reorders_groups": True}, "activation order; allowed are rounding.static_groups=true"),
        ([INT4, IntFormat(bits=8, group_size=32)], {}, "zero-points in linears of different bits .* symmetric=true"),
    ],
)  # fmt: skip
def test_what_the_layout_cannot_express_is_refused_in_one_line(formats, options, message):
    options = {"keeps_weights": False, "reorders_groups": False} | options
    with pytest.raises(ValueError, match=message) as error:
        LAYOUTS["compressed_tensors"].check_variant(formats, **options)
    assert "\n" not in str(error.value)
