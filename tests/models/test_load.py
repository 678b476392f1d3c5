"""Loading from a directory and from the Hub's cache, and one line for everything that can be wrong with them."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from quantbench.errors import InputError
from quantbench.models.load import EmbeddedModel, HubModel, LocalModel, identify, load
from quantbench.models.structure import find_structure
from tests.models import tiny


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "tiny-llama"
    tiny.build("llama").save_pretrained(path)
    tiny.tokenizer().save_pretrained(path)
    return path


def edit_config(path: Path, **changes: Any) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize(
    "name", ["llama", "gemma3", "opt-350m", "gpt2", "gpt-neox", "phi3-gqa", "qwen3-moe", "mixtral"]
)
@torch.no_grad()
def test_a_saved_model_comes_back_with_its_logits_and_ready_to_quantize(name: str, tmp_path: Path) -> None:
    model = tiny.build(name)
    model.save_pretrained(tmp_path / name)
    tiny.tokenizer().save_pretrained(tmp_path / name)
    loaded = load(LocalModel(path=str(tmp_path / name)), "auto")
    ids = tiny.token_ids()
    assert (loaded.model(ids).logits - model(ids).logits).abs().max() <= 1e-5
    assert loaded.tokenizer("w0 w5")["input_ids"] == [4, 9]
    assert loaded.dtype == torch.float32
    assert loaded.identity == identify(LocalModel(path=str(tmp_path / name)))
    assert not loaded.model.training
    assert not loaded.model.config.use_cache
    assert not any(p.requires_grad for p in loaded.model.parameters())
    blocks = find_structure(loaded.model).blocks
    assert all(isinstance(b.module.get_submodule(n), nn.Linear) for b in blocks for n in b.linears)


def test_sdpa_where_the_class_supports_it_and_a_note_where_not(tmp_path: Path, directory: Path) -> None:
    tiny.build("gemma2").save_pretrained(tmp_path / "gemma2")
    tiny.tokenizer().save_pretrained(tmp_path / "gemma2")
    assert load(LocalModel(path=str(directory)), "auto").notes == ()
    assert load(LocalModel(path=str(tmp_path / "gemma2")), "auto").notes == ("attention computed by eager",)


@pytest.mark.parametrize(
    ("saved", "default", "asked", "expected"),
    [
        (torch.bfloat16, None, "auto", torch.bfloat16),
        (torch.bfloat16, "float32", "auto", torch.float32),
        (torch.bfloat16, "float32", "bfloat16", torch.bfloat16),
        (torch.float16, None, "auto", torch.float16 if torch.cuda.is_available() else torch.float32),
        (torch.float16, None, "float16", torch.float16),
    ],
)
def test_dtype_rule(saved: torch.dtype, default: str | None, asked: str, expected: torch.dtype, tmp_path: Path) -> None:
    tiny.build("llama").to(saved).save_pretrained(tmp_path / "m")
    tiny.tokenizer().save_pretrained(tmp_path / "m")
    loaded = load(LocalModel(path=str(tmp_path / "m"), default_dtype=default), asked)
    assert loaded.dtype == expected
    assert {p.dtype for p in loaded.model.parameters()} == {expected}
    assert bool(loaded.notes) == (saved == torch.float16 and expected == torch.float32)


def test_identity_follows_the_content_and_not_the_place(directory: Path, tmp_path: Path) -> None:
    import shutil

    first = identify(LocalModel(path=str(directory)))
    copy = shutil.copytree(directory, tmp_path / "elsewhere" / directory.name)
    (copy / "README.md").write_text("prose is no part of a model")
    assert identify(LocalModel(path=str(copy))) == first
    assert first.name == "tiny-llama"
    assert first.revision.startswith("sha256:")
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert identify(LocalModel(path=str(copy))).revision != first.revision


def test_a_file_is_hashed_once_and_again_when_touched(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    first = identify(LocalModel(path=str(directory)))
    opened: list[str] = []
    original = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: (opened.append(self.name), original(self, *a, **k))[1])
    assert identify(LocalModel(path=str(directory))) == first
    assert "model.safetensors" not in opened
    os.utime(directory / "model.safetensors", ns=(1, 1))
    assert identify(LocalModel(path=str(directory))) == first
    assert "model.safetensors" in opened


def test_pickle_weights_load_when_there_is_nothing_else_and_are_noted(directory: Path) -> None:
    from safetensors.torch import load_file

    expected = load(LocalModel(path=str(directory)), "auto")
    torch.save(load_file(directory / "model.safetensors"), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()
    loaded = load(LocalModel(path=str(directory)), "auto")
    assert any("weights_only" in note for note in loaded.notes)
    for a, b in zip(loaded.model.parameters(), expected.model.parameters(), strict=True):
        assert torch.equal(a, b)


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_pickle_with_code_is_refused_and_never_runs(directory: Path, tmp_path: Path) -> None:
    (directory / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Bomb(tmp_path / "ran")}, directory / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot load the model"):
        load(LocalModel(path=str(directory)), "auto")
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Bomb(tmp_path / "ran")))
    assert (tmp_path / "ran").exists(), "the bomb must be able to go off"


def test_code_in_a_repository_never_runs_unasked(directory: Path, tmp_path: Path) -> None:
    edit_config(directory, model_type="other", auto_map={"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"})
    (directory / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(InputError, match="unknown architecture model_type=other"):
        load(LocalModel(path=str(directory)), "auto")
    assert not (tmp_path / "ran").exists()


def missing_path(path: Path) -> str:
    return str(path / "nowhere")


def plain_file(path: Path) -> str:
    return str(path / "config.json")


def no_config(path: Path) -> None:
    (path / "config.json").unlink()


def broken_config(path: Path) -> None:
    (path / "config.json").write_text("{")


def no_weights(path: Path) -> None:
    (path / "model.safetensors").unlink()


def truncated_weights(path: Path) -> None:
    (path / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes()[:-100])


def unknown_architecture(path: Path) -> None:
    edit_config(path, model_type="llama9000")


def encoder_decoder(path: Path) -> None:
    (path / "config.json").write_text(json.dumps({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}))


def masked_model(path: Path) -> None:
    (path / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertForMaskedLM"]}))


def already_quantized(path: Path) -> None:
    edit_config(path, quantization_config={"quant_method": "gptq", "bits": 4})


def wrong_shape(path: Path) -> None:
    edit_config(path, intermediate_size=64)


def more_layers_than_weights(path: Path) -> None:
    edit_config(path, num_hidden_layers=5)


def no_tokenizer(path: Path) -> None:
    for file in path.glob("*token*"):
        file.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (missing_path, "nowhere: no such directory or file"),
        (plain_file, "allowed is a directory with config.json or a file ending in .gguf"),
        (no_config, "has no config.json"),
        (broken_config, "config.json is not valid JSON"),
        (no_weights, "tiny-llama has no weights: looked for model.safetensors"),
        (truncated_weights, "cannot load the model in tiny-llama"),
        (unknown_architecture, "unknown architecture model_type=llama9000"),
        (encoder_decoder, "not a causal language model: model_type=t5"),
        (masked_model, "not a causal language model: model_type=bert"),
        (already_quantized, "already quantized .gptq."),
        (wrong_shape, "do not fit"),
        (more_layers_than_weights, "18 tensors are missing"),
        (no_tokenizer, "no tokenizer"),
    ],
)
def test_every_unusable_directory_gets_one_line(spoil: Any, message: str, directory: Path) -> None:
    path = spoil(directory) or str(directory)
    with pytest.raises(InputError, match=message) as caught:
        load(LocalModel(path=path), "auto")
    assert "\n" not in str(caught.value)


def test_wrong_fields_name_themselves() -> None:
    with pytest.raises(ValueError, match=r"model.default_dtype=float31: allowed are float32, bfloat16, float16"):
        EmbeddedModel(default_dtype="float31")
    with pytest.raises(ValueError, match=r"model.path is empty"):
        LocalModel()
    with pytest.raises(ValueError, match=r"model.name or model.revision is empty"):
        HubModel(name="a/b", revision="")
    with pytest.raises(InputError, match="dtype=int8: allowed are auto, float32"):
        load(EmbeddedModel(), "int8")
