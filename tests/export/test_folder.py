import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from quantbench.errors import InputError, QuantizationError
from quantbench.export import LAYOUTS, check_destination, check_model, folder
from quantbench.formats import IntFormat
from quantbench.models.canonical import canonicalise_
from tests.export.models import WIDE, exported, logits, quantized
from tests.models import tiny

INT4 = IntFormat(bits=4, group_size=32)


def files(path):
    return sorted(file.name for file in path.iterdir())


def test_a_folder_holds_what_a_model_on_the_hub_does_and_the_record(tmp_path):
    model = quantized("llama", INT4, tie_word_embeddings=True)
    model.config.use_cache = False  # as loading leaves it
    path = exported(model, tmp_path / "m", "compressed_tensors")
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json", "quantbench.json"} <= set(files(path))
    config = json.loads((path / "config.json").read_text())
    assert (config["architectures"], config["dtype"]) == (["LlamaForCausalLM"], "float32")
    assert config.get("use_cache", True)
    assert "lm_head.weight" not in load_file(path / "model.safetensors")
    assert json.loads((path / "quantbench.json").read_text()) == {"run_id": "a1"}
    assert not model.config.use_cache
    assert not hasattr(model.config, "quantization_config")


def test_a_model_in_full_precision_is_an_ordinary_checkpoint(tmp_path):
    model = tiny.build("qwen2")
    path = exported(model, tmp_path / "m", "gptq")
    assert "quantization_config" not in json.loads((path / "config.json").read_text())
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(path).eval()), logits(model))


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    path = exported(quantized("llama", INT4), tmp_path / "m", "gptq")
    before = {name: (path / name).read_bytes() for name in files(path)}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.save_torch_state_dict", full)
    with pytest.raises(QuantizationError, match=r"cannot write .*No space left on device"):
        exported(quantized("llama", INT4), path, "awq")
    assert files(tmp_path) == ["m"]
    assert {name: (path / name).read_bytes() for name in files(path)} == before


def test_a_folder_that_cannot_be_moved_into_place_brings_the_old_one_back(tmp_path, monkeypatch):
    path = exported(quantized("llama", INT4), tmp_path / "m", "gptq")
    move = folder.Path.replace

    def refuses_new(self, target):
        if ".new" in self.name:
            raise OSError(13, "Permission denied")
        return move(self, target)

    monkeypatch.setattr(folder.Path, "replace", refuses_new)
    with pytest.raises(QuantizationError, match="Permission denied"):
        exported(quantized("llama", INT4), path, "awq")
    assert files(tmp_path) == ["m"]
    assert json.loads((path / "config.json").read_text())["quantization_config"]["quant_method"] == "gptq"


def test_only_a_folder_of_ours_is_replaced_and_only_when_asked(tmp_path):
    path = exported(quantized("llama", INT4), tmp_path / "m", "gptq")
    (path / "left-over").write_text("")
    with pytest.raises(InputError, match="already there; force=true overwrites it"):
        check_destination(path, overwrite=False)
    check_destination(path, overwrite=True)
    exported(quantized("llama", INT4), path, "awq")
    assert "left-over" not in files(path)
    (tmp_path / "mine").mkdir()
    check_destination(tmp_path / "mine", overwrite=False)
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="no export of quantbench; give another name"):
        check_destination(tmp_path / "mine", overwrite=True)
    with pytest.raises(InputError, match="there is no folder"):
        check_destination(tmp_path / "none" / "m", overwrite=True)


@pytest.mark.parametrize(
    ("name", "linear", "options", "message"),
    [
        ("gpt2", "transformer.h.0.mlp.c_fc", {}, "weights of transformer.h.0.mlp.c_fc in a fused or transposed"),
        ("mixtral", "model.layers.0.mlp.experts.0.gate_proj", {}, "fused or transposed matrix; allowed are models"),
        ("opt", "model.decoder.layers.0.fc1", {"replaces_norms": True}, "RMSNorms that a rotation makes of its LayerN"),
        ("llama", "model.layers.0.mlp.down_proj", {}, "down_proj: save_layout=gptq: group_size=32 does not divide"),
    ],
)  # fmt: skip
def test_a_model_that_its_class_could_not_load_again_is_refused_before_any_work(
    name, linear, options, message, tmp_path
):
    model = tiny.build(name)
    canonicalise_(model)
    with pytest.raises(InputError, match=message) as error:
        check_model(model, LAYOUTS["gptq"], {linear: INT4}, **{"replaces_norms": False, "path": tmp_path} | options)
    assert "\n" not in str(error.value)


def test_a_model_whose_code_is_elsewhere_is_refused(tmp_path):
    model = tiny.build("llama", **WIDE, auto_map={"AutoModelForCausalLM": "code.Model"})
    with pytest.raises(InputError, match="has its code in its own repository"):
        check_model(model, LAYOUTS["gptq"], {}, replaces_norms=False, path=tmp_path)
