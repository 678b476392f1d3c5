"""Decoders written from the layouts' public descriptions, and compressed-tensors' converter of AutoAWQ checkpoints."""

import json

import pytest
import torch
from safetensors.torch import load_file

from quantbench.export import LAYOUTS
from quantbench.formats import FP8, IntFormat
from quantbench.methods.allocation import Uniform
from quantbench.methods.rounding import GPTQ
from tests.export.models import exported, quantized

INT4 = IntFormat(bits=4, group_size=32)


def three_bits(words):
    """32 codes from three words [3, n], as AutoGPTQ's kernels unpack them: 10 + a straddling one, 10 + one, 10."""
    first, second, third = (word.long() & 0xFFFFFFFF for word in words)
    codes = [(first >> 3 * i) & 7 for i in range(10)] + [(first >> 30) & 3 | (second & 1) << 2]
    codes += [(second >> (1 + 3 * i)) & 7 for i in range(10)] + [(second >> 31) & 1 | (third & 3) << 1]
    return torch.stack(codes + [(third >> (2 + 3 * i)) & 7 for i in range(10)])


def unpack(words, bits):
    """Codes along the first dimension of int32 words."""
    if bits == 3:
        return torch.cat([three_bits(words[i : i + 3]) for i in range(0, len(words), 3)])
    return torch.stack([(words.long() >> shift) & (2**bits - 1) for shift in range(0, 32, bits)], 1).flatten(0, 1)


def decode_gptq(stored, config):
    """W^T [in, out]."""
    codes, zeros = unpack(stored["qweight"], config["bits"]), unpack(stored["qzeros"].T, config["bits"]).T
    zeros = zeros + (config["checkpoint_format"] == "gptq")
    return stored["scales"].float()[stored["g_idx"].long()] * (codes - zeros[stored["g_idx"].long()]).float()


def read(folder):
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    return load_file(folder / "model.safetensors"), config


def of(stored, name):
    return {key.removeprefix(f"{name}."): value for key, value in stored.items() if key.startswith(f"{name}.")}


def linears(model):
    return {name: module for name, module in model.named_modules() if hasattr(module, "quantized")}


@pytest.mark.parametrize("name", ["llama", "qwen2", "opt", "gpt-neox"])
@pytest.mark.parametrize(
    "format",
    [
        INT4,
        IntFormat(bits=4, group_size=32, symmetric=True),
        IntFormat(bits=3, group_size=None),
        IntFormat(bits=2, group_size=16),
        IntFormat(bits=8, group_size=32, symmetric=True),
    ],
    ids=["w4", "w4-sym", "w3-row", "w2-g16", "w8-sym"],
)
def test_a_decoder_of_the_gptq_layout_gives_the_same_weights(name, format, tmp_path):
    model = quantized(name, format)
    stored, config = read(exported(model, tmp_path / "m", "gptq"))
    assert (config["bits"], config["group_size"]) == (format.bits, format.group_size or -1)
    assert config["sym"] == format.symmetric
    for linear, module in linears(model).items():
        assert torch.equal(decode_gptq(of(stored, linear), config).T, module.weight), linear
    assert json.loads((tmp_path / "m" / "quantize_config.json").read_text()) == config


def test_groups_in_activation_order_keep_their_index(tmp_path):
    model = quantized("llama", INT4, rounding=GPTQ(act_order=True))
    stored, config = read(exported(model, tmp_path / "m", "gptq"))
    assert config["desc_act"]
    for linear, module in linears(model).items():
        assert torch.equal(decode_gptq(of(stored, linear), config).T, module.weight), linear
    assert not torch.equal(stored["model.layers.0.mlp.down_proj.g_idx"], torch.arange(96, dtype=torch.int32) // 32)


def test_a_zero_point_of_zero_takes_the_second_version_of_the_layout(tmp_path):
    """In the first version it would be stored as -1, which has no code, and spoil the neighbour."""
    first = read(exported(quantized("llama", INT4), tmp_path / "a", "gptq"))[1]
    assert first["checkpoint_format"] == "gptq"
    assert "meta" not in first
    model = quantized("llama", INT4)
    linear = next(iter(linears(model).values()))
    linear.quantized.params.zero_point[0, 0] = 0
    linear.weight.copy_(linear.quantized.dequantize())
    stored, config = read(exported(model, tmp_path / "b", "gptq"))
    assert config["checkpoint_format"] == "gptq_v2"
    assert "meta" in config  # what transformers' conversion for auto-round refuses, which knows the first alone
    for name, module in linears(model).items():
        assert torch.equal(decode_gptq(of(stored, name), config).T, module.weight), name


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", ["llama", "qwen3", "opt", "gpt-neox"])
def test_the_converter_of_autoawq_checkpoints_finds_what_compressed_tensors_stores(name, symmetric, tmp_path):
    converters = pytest.importorskip("compressed_tensors.entrypoints.convert.converters.autoawq")
    model = quantized(name, IntFormat(bits=4, group_size=32, symmetric=symmetric))
    stored, config = read(exported(model, tmp_path / "awq", "awq"))
    converted = converters.AutoAWQConverter.from_autoawq_config(config).process(dict(stored))
    expected, _ = read(exported(model, tmp_path / "ct", "compressed_tensors"))
    assert any(key.endswith("weight_packed") for key in expected)
    for key, value in expected.items():
        assert torch.equal(converted[key].to(value.dtype), value), key


def test_a_decoder_of_the_awq_layout_gives_the_same_weights(tmp_path):
    """From the order alone in which AutoAWQ's GEMM kernel reads a word: channels 0, 4, 1, 5, 2, 6, 3, 7 lie in it as
    nibbles 0, 1, 2, ... of the reversed order 0, 2, 4, 6, 1, 3, 5, 7."""
    model = quantized("llama", INT4)
    stored, config = read(exported(model, tmp_path / "m", "awq"))
    assert (config["quant_method"], config["version"], config["group_size"]) == ("awq", "gemm", 32)
    for linear, module in linears(model).items():
        part = of(stored, linear)
        unpacked = {}
        for key in ("qweight", "qzeros"):
            nibbles = torch.stack([(part[key].long() >> 4 * place) & 15 for place in range(8)], -1)
            unpacked[key] = nibbles[..., [0, 4, 1, 5, 2, 6, 3, 7]].flatten(1)
        scales, zeros = (t.repeat_interleave(32, 0).float() for t in (part["scales"], unpacked["qzeros"]))
        assert torch.equal((scales * (unpacked["qweight"] - zeros)).T, module.weight), linear


def test_linears_left_alone_are_named_in_the_configuration(tmp_path):
    model = quantized("llama", INT4, allocation=Uniform(skip=["down_proj"]))
    left = ["model.layers.0.mlp.down_proj", "lm_head"]
    _, config = read(exported(model, tmp_path / "awq", "awq"))
    assert set(left) < set(config["modules_to_not_convert"])
    _, config = read(exported(model, tmp_path / "gptq", "gptq"))
    assert config["dynamic"][r"-:^model\.layers\.0\.mlp\.down_proj$"] == {}


@pytest.mark.parametrize(
    ("layout", "formats", "options", "message"),
    [
        ("gptq", [FP8()], {}, "gptq cannot hold format=FP8; allowed are format=int with 2, 3, 4, 8 bits"),
        ("gptq", [IntFormat(bits=5)], {}, "cannot hold bits=5; allowed are format=int with 2, 3, 4, 8 bits"),
        ("gptq", [IntFormat(scale_dtype="bfloat16")], {}, "scale_dtype=bfloat16; allowed are scales in float16"),
        ("gptq", [INT4, IntFormat(bits=8)], {}, "linears of different bits; allowed are allocation=uniform"),
        ("awq", [IntFormat(bits=3)], {}, "awq cannot hold bits=3; allowed are format=int with 4 bits"),
        ("awq", [INT4], {"reorders_groups": True}, "groups in activation order; .* save_layout=gptq"),
        ("awq", [INT4], {"keeps_weights": True}, "no place for weights kept in 16 bits"),
    ],
)
def test_what_a_layout_cannot_express_is_refused_in_one_line(layout, formats, options, message):
    options = {"keeps_weights": False, "reorders_groups": False} | options
    with pytest.raises(ValueError, match=message) as error:
        LAYOUTS[layout].check_variant(formats, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("layout", "format", "shape", "message"),
    [
        ("awq", INT4, (64, 80), r"group_size=32 does not divide 80 input channels; allowed are its divisors \(16\)"),
        ("awq", IntFormat(group_size=None), (60, 64), "a matrix of 60 x 64; allowed are multiples of 8 output"),
        ("gptq", IntFormat(group_size=None), (48, 64), "multiples of 32 output and 32 input channels"),
    ],
)
def test_a_matrix_that_does_not_fill_the_words_is_refused(layout, format, shape, message):
    with pytest.raises(ValueError, match=message):
        LAYOUTS[layout].check_shape(format, *shape)
