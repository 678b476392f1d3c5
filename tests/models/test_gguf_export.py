"""Exported GGUF files, read back by transformers' own reader, which undoes llama.cpp's conventions by itself."""

from pathlib import Path

import gguf
import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from quantbench.__main__ import main
from quantbench.errors import InputError
from quantbench.formats import Format, IntFormat
from quantbench.formats import gguf as formats
from quantbench.methods.allocation import Uniform
from quantbench.methods.range import MinMax
from quantbench.methods.rounding import RTN
from quantbench.methods.transform import NoTransform
from quantbench.methods.variant import Variant
from quantbench.models import gguf_export
from quantbench.models.gguf_export import check_exportable, export_gguf
from quantbench.models.load import LocalModel, load
from quantbench.models.solve import apply_result
from quantbench.models.structure import find_structure
from quantbench.models.walk import quantize
from tests.models import tiny

WIDE = {"hidden_size": 256, "intermediate_size": 288, "vocab_size": 320, "num_hidden_layers": 2, "head_dim": 64}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def byte_level(pre_tokenizer=GPT2, normalizer=None) -> PreTrainedTokenizerFast:
    words = ["<unk>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "he", "ll", "hell", "hello"]
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o")]
    core = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, merges))
    core.pre_tokenizer, core.decoder = pre_tokenizer, decoders.ByteLevel()
    if normalizer is not None:
        core.normalizer = normalizer
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def quantized(name: str, format: Format, **changes) -> torch.nn.Module:
    """A small model with its linears quantized in place."""
    model = tiny.build(name, **WIDE | changes)
    structure = find_structure(model)
    variant = Variant(format, MinMax(), NoTransform(), RTN(), Uniform(), "fp")
    apply_result(model, quantize(model, structure, [variant], None, device=torch.device("cpu"))[0])
    return model


@pytest.mark.parametrize("format", [formats.Q4_0(), formats.Q4_K(), formats.Q6_K(), formats.TQ1_0()], ids=str)
@pytest.mark.parametrize("name", ["llama", "llama-mha-bias", "mistral", "qwen2", "qwen3"])
@torch.no_grad()
def test_an_exported_model_comes_back_with_the_same_weights(name, format, tmp_path):
    model = quantized(name, format, **({"head_dim": 128} if name == "qwen3" else {}))  # what the reader assumes
    export_gguf(model, byte_level(), tmp_path / "model.gguf", name="tiny")
    loaded = load(LocalModel(path=str(tmp_path / "model.gguf")), "float32").model
    ours, theirs = model.state_dict(), loaded.state_dict()
    if name == "llama-mha-bias":  # transformers' reader does not undo the order of rotary biases
        theirs = {key: value for key, value in theirs.items() if not key.endswith(("q_proj.bias", "k_proj.bias"))}
    linears = {key for key in ours if "_proj.weight" in key}
    assert linears
    for key, value in theirs.items():
        if key in linears or value.ndim == 1:
            assert torch.equal(value, ours[key]), key
        else:
            assert torch.equal(value, ours[key].half().float()), key


def tensors(path: Path) -> dict[str, str]:
    return {t.name: t.tensor_type.name for t in gguf.GGUFReader(path).tensors}


def test_matrices_get_the_types_that_llama_cpp_would_choose_for_their_widths(tmp_path):
    written = export_gguf(quantized("llama", formats.Q4_K()), byte_level(), tmp_path / "model.gguf", name="tiny")
    found = tensors(tmp_path / "model.gguf")
    assert found["blk.0.attn_q.weight"] == found["blk.1.ffn_up.weight"] == "Q4_K"
    assert found["blk.0.ffn_down.weight"] == "Q5_0"  # 288 columns
    assert found["token_embd.weight"] == found["output.weight"] == "F16"
    assert found["blk.0.attn_norm.weight"] == "F32"
    assert written.endswith("tokenizer gpt-2")
    assert all(part in written for part in ("12 Q4_K", "2 Q5_0", "2 F16"))


def test_linears_in_another_format_are_written_as_they_dequantize(tmp_path):
    model = quantized("llama", IntFormat(bits=4, group_size=32))
    export_gguf(model, byte_level(), tmp_path / "model.gguf", name="tiny")
    assert set(tensors(tmp_path / "model.gguf").values()) == {"F16", "F32"}
    loaded = load(LocalModel(path=str(tmp_path / "model.gguf")), "float32").model
    weight = model.get_submodule("model.layers.1.mlp.up_proj").weight
    torch.testing.assert_close(
        loaded.get_parameter("model.layers.1.mlp.up_proj.weight"), weight, rtol=2**-11, atol=1e-7
    )


def test_tied_embeddings_are_written_once_and_stretched_rotations_as_factors(tmp_path):
    model = tiny.build("llama", **WIDE, tie_word_embeddings=True, rope_parameters=LLAMA3)
    export_gguf(model, byte_level(), tmp_path / "model.gguf", name="tiny")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    found = {tensor.name: tensor.data for tensor in reader.tensors}
    assert "output.weight" not in found
    plain = 10000.0 ** -(torch.arange(0, 64, 2) / 64)
    frequencies = plain / torch.from_numpy(found["rope_freqs.weight"].copy())
    torch.testing.assert_close(frequencies, model.model.rotary_emb.inv_freq, rtol=1e-5, atol=0)
    assert found["rope_freqs.weight"].max() > 1.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act=gelu; llama.cpp computes silu"),
        (
            {"rope_parameters": {**LLAMA3, "rope_type": "dynamic"}},
            "rope_type=dynamic; allowed .* default, linear, llama3",
        ),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused_in_one_line(changes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        check_exportable(tiny.build("llama", **changes), tmp_path / "m.gguf", overwrite=False)


@pytest.mark.parametrize("name", ["opt", "gemma2", "mixtral"])
def test_architectures_without_an_export_are_refused_by_name(name, tmp_path):
    with pytest.raises(InputError, match=f"model_type={name}; allowed for GGUF are llama, mistral, qwen2, qwen3"):
        check_exportable(tiny.build(name), tmp_path / "m.gguf", overwrite=False)


def test_files_are_not_overwritten_unasked_and_folders_must_exist(tmp_path):
    model = tiny.build("llama")
    (tmp_path / "m.gguf").write_text("mine")
    with pytest.raises(InputError, match="is already there; force=true"):
        check_exportable(model, tmp_path / "m.gguf", overwrite=False)
    check_exportable(model, tmp_path / "m.gguf", overwrite=True)
    with pytest.raises(InputError, match="there is no folder"):
        check_exportable(model, tmp_path / "none" / "m.gguf", overwrite=False)


def test_an_export_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    def disk_full(self):
        raise OSError("no space left on device")

    (tmp_path / "m.gguf").write_text("mine")
    monkeypatch.setattr(gguf_export.gguf.GGUFWriter, "write_tensors_to_file", disk_full)
    with pytest.raises(OSError, match="no space"):
        export_gguf(tiny.build("llama"), byte_level(), tmp_path / "m.gguf", name="tiny")
    assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]
    assert (tmp_path / "m.gguf").read_text() == "mine"


def sequence(*steps):
    return pre_tokenizers.Sequence(list(steps))


def split(digits):
    isolated = pre_tokenizers.Split(Regex(SPLIT % digits), "isolated")
    return sequence(isolated, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))


@pytest.mark.parametrize(
    ("tokenizer", "expected"),
    [
        (byte_level(), "tokenizer gpt-2"),
        (byte_level(sequence(pre_tokenizers.Digits(individual_digits=True), GPT2)), "tokenizer smollm"),
        (byte_level(split(r"\p{N}{1,3}")), "tokenizer llama-bpe"),
        (byte_level(split(r"\p{N}"), normalizers.NFC()), "tokenizer qwen2"),
        (byte_level(split(r"\p{N}{1,2}")), "token ids only"),
        (byte_level(normalizer=normalizers.Lowercase()), "token ids only"),
        (byte_level(pre_tokenizers.WhitespaceSplit()), "token ids only"),
        (tiny.tokenizer(), "token ids only"),
    ],
)
def test_a_tokenizer_is_written_only_where_llama_cpp_splits_text_alike(tokenizer, expected, tmp_path):
    written = export_gguf(tiny.build("llama", **WIDE), tokenizer, tmp_path / "m.gguf", name="tiny")
    assert f"; {expected}" in written


def test_vocabulary_types_and_merges_are_the_tokenizers(tmp_path):
    export_gguf(tiny.build("llama", **WIDE), byte_level(), tmp_path / "m.gguf", name="tiny")
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    tokens, types = (fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "token_type"))
    assert len(tokens) == len(types) == 320
    assert (tokens[262], tokens[263]) == ("hello", "[unused263]")
    assert [types[i] for i in (0, 1, 10, 319)] == [3, 3, 1, 5]
    assert fields["tokenizer.ggml.merges"].contents() == ["h e", "l l", "he ll", "hell o"]
    assert (fields["tokenizer.ggml.bos_token_id"].contents(), fields["tokenizer.ggml.add_bos_token"].contents()) == (
        1,
        0,
    )


def test_save_writes_the_runs_model_even_when_the_run_is_stored_and_is_not_part_of_its_identity(tmp_path, capsys):
    common = ["method=q4_0", "evaluation.max_windows=2", "evaluation.tasks=[]", "logger=none"]
    common += [f"results_dir={tmp_path / 'out'}"]
    assert main(common) == 0
    assert main([*common, f"save={tmp_path / 'world.gguf'}"]) == 0
    printed = capsys.readouterr().out
    assert "matrices 28 Q4_0, 1 F16; token ids only" in printed
    assert len(list((tmp_path / "out" / "runs").glob("*.parquet"))) == 1
    assert tensors(tmp_path / "world.gguf")["blk.3.ffn_down.weight"] == "Q4_0"
    assert main([*common, f"save={tmp_path / 'world.gguf'}"]) == 2
    assert "is already there" in capsys.readouterr().err
    assert main([*common, "save=world.bin"]) == 2
    assert "allowed is a folder, a file name that ends in .gguf, or null" in capsys.readouterr().err
