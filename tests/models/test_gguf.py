"""GGUF files against the weights they were written from, and gguf-py's own dequantization."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from quantbench.errors import InputError
from quantbench.models.load import LocalModel, load
from quantbench.models.structure import find_structure
from tests.models import tiny

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def gguf_name(name: str) -> str:
    fixed = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    stem = name.removesuffix(".weight")
    if stem in fixed:
        return f"{fixed[stem]}.weight"
    _, _, index, rest = stem.split(".", 3)
    return f"blk.{index}.{NAMES[rest]}.weight"


def rotary_rows(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp interleaves the two halves of each rotary head."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write(path: Path, model: Any, kind: gguf.GGMLQuantizationType, architecture: str = "llama") -> dict[str, Any]:
    """Write the model and return what each weight is worth after quantization, by its transformers name."""
    config, worth = model.config, {}
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(64)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    pieces = ["▁w", *(f"▁w{i}" for i in range(10)), "▁", "w", *map(str, range(10))]
    words = ["<unk>", "<s>", "</s>", *pieces, *(f"▁filler{i}" for i in range(config.vocab_size - 3 - len(pieces)))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(words)
    writer.add_token_scores([-float(i) for i in range(len(words))])
    writer.add_token_types([2, 3, 3, *[1] * (len(words) - 3)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    for name, tensor in model.state_dict().items():
        weight = tensor.float().numpy()
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        stored = rotary_rows(weight, heads) if heads else weight
        if weight.ndim == 1 or weight.shape[-1] % 32:
            writer.add_tensor(gguf_name(name), stored)
            worth[name] = weight
        else:
            blocks = gguf.quantize(stored, kind)
            writer.add_tensor(gguf_name(name), blocks, raw_dtype=kind)
            worth[name] = gguf.dequantize(gguf.quantize(weight, kind), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return worth


@pytest.mark.parametrize("kind", [gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.Q8_0])
@torch.no_grad()
def test_a_gguf_file_comes_back_as_linears_worth_what_gguf_py_says(kind: Any, tmp_path: Path) -> None:
    model = tiny.build("llama", intermediate_size=64)
    worth = write(tmp_path / "tiny.gguf", model, kind)
    loaded = load(LocalModel(path=str(tmp_path / "tiny.gguf")), "float32")
    state = loaded.model.state_dict()
    assert set(worth) == set(state)
    for name, value in worth.items():
        np.testing.assert_allclose(state[name].numpy(), value, rtol=1e-6, atol=1e-7, err_msg=name)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in worth.items()})
    ids = tiny.token_ids()
    torch.testing.assert_close(loaded.model(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-4)
    assert "dequantized from GGUF" in loaded.notes
    assert getattr(loaded.model.config, "quantization_config", None) is None
    assert loaded.identity.name == "tiny.gguf"
    assert len(find_structure(loaded.model).blocks) == 3
    assert loaded.tokenizer("w5 w7", add_special_tokens=False)["input_ids"] == [9, 11]


def test_unknown_architectures_and_files_that_are_no_gguf_get_one_line(tmp_path: Path) -> None:
    write(tmp_path / "odd.gguf", tiny.build("llama"), gguf.GGMLQuantizationType.F32, architecture="llama9000")
    (tmp_path / "text.gguf").write_text("not a model")
    for name in ("odd.gguf", "text.gguf"):
        with pytest.raises(InputError, match=f"cannot load {name} as a GGUF model") as caught:
            load(LocalModel(path=str(tmp_path / name)), "auto")
        assert "\n" not in str(caught.value)
