"""A model as a GGUF file that llama.cpp runs: quantized linears as ggml's blocks, everything else in 16 or 32 bits."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import gguf
import torch
from torch import Tensor, nn

from quantbench.errors import InputError
from quantbench.formats.gguf import GGUFFormat, ggml_blocks
from quantbench.models.gguf_vocab import add_vocabulary
from quantbench.models.linear import QuantLinear

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""transformers' model_type -> llama.cpp's architecture."""
_ROPE_TYPES = ("default", "linear", "llama3")
_HALF = torch.finfo(torch.float16).max


def check_exportable(model: nn.Module, path: Path, *, overwrite: bool) -> None:
    """Refuse, before anything is computed, what could not be written.

    Raises:
        InputError: no such folder, a file that is already there, or a model that llama.cpp has no architecture for.
    """
    if not path.resolve().parent.is_dir():
        raise InputError(f"save={path}: there is no folder {path.parent}")
    if path.exists() and not overwrite:
        raise InputError(f"save={path} is already there; force=true overwrites it")
    config: Any = model.config
    if config.model_type not in ARCHITECTURES:
        raise InputError(
            f"save={path}: model_type={config.model_type}; allowed for GGUF are {', '.join(ARCHITECTURES)}"
        )
    if config.hidden_act not in ("silu", "swish"):
        raise InputError(f"save={path}: hidden_act={config.hidden_act}; llama.cpp computes silu for this architecture")
    kind = config.rope_parameters.get("rope_type", "default")
    known = _ROPE_TYPES if ARCHITECTURES[config.model_type] == "llama" else _ROPE_TYPES[:1]
    if kind not in known:
        raise InputError(f"save={path}: rope_type={kind}; allowed for this architecture are {', '.join(known)}")


@torch.no_grad()
def export_gguf(model: nn.Module, tokenizer: Any, path: Path, *, name: str) -> str:
    """Write ``model``, whose quantized linears are :class:`QuantLinear`; returns what was written, in words.

    Linears in a GGUF format are written byte for byte. Other matrices (embeddings, and linears of another format as
    they dequantize) are float16, vectors float32. The file appears under its name when it is complete.
    """
    config: Any = model.config
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    writer = gguf.GGUFWriter(temporary, ARCHITECTURES[config.model_type])
    try:
        writer.add_name(name)
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        _add_shape(writer, config)
        vocabulary = add_vocabulary(writer, tokenizer, config.vocab_size)
        kinds = _add_tensors(writer, model)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    matrices = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    return f"{path} ({path.stat().st_size / 2**20:.1f} MiB): matrices {matrices}; {vocabulary}"


def _add_shape(writer: gguf.GGUFWriter, config: Any) -> None:
    heads, window = config.num_attention_heads, getattr(config, "sliding_window", None)
    # llama.cpp attends to everything here, so that a window bounds the context in which the two agree
    context = config.max_position_embeddings if window is None else min(window, config.max_position_embeddings)
    writer.add_context_length(context)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(_head_dim(config))
    writer.add_value_length(_head_dim(config))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(_head_dim(config))
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)


def _head_dim(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _add_tensors(writer: gguf.GGUFWriter, model: nn.Module) -> Counter[str]:
    """Every parameter under llama.cpp's name; returns how many matrices are stored in which type."""
    config: Any = model.config
    architecture = next(a for a, text in gguf.MODEL_ARCH_NAMES.items() if text == ARCHITECTURES[config.model_type])
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    root: Any = model
    embeddings, head = root.get_input_embeddings(), root.get_output_embeddings()
    kinds: Counter[str] = Counter()
    if (factors := _rope_factors(model)) is not None:
        writer.add_tensor("rope_freqs.weight", factors.numpy())
    for module_name, module in model.named_modules():
        stored = dict(module.named_parameters(recurse=False))
        if isinstance(module, QuantLinear):
            stored = {"weight": module.weight, **stored}
        elif module is head and module.weight is embeddings.weight:
            continue  # llama.cpp reads the embeddings where a file has no output matrix
        for part, value in stored.items():
            name = names.get_name(f"{module_name}.{part}", try_suffixes=(".weight", ".bias"))
            assert name is not None, f"{module_name}.{part} has no name in GGUF"
            order = _rotary_rows(config, module_name, len(value))
            if value.ndim == 1:
                writer.add_tensor(name, value.float().cpu()[order].numpy())
                continue
            data, kind = _matrix(module, value)
            writer.add_tensor(name, data[order].numpy(), raw_dtype=kind)
            kinds[kind.name] += 1
    return kinds


def _matrix(module: nn.Module, weight: Tensor) -> tuple[Tensor, gguf.GGMLQuantizationType]:
    """The bytes of a matrix, row by row, and their type."""
    if isinstance(module, QuantLinear):
        quantized = module.quantized
        plain = quantized.outliers is None and quantized.group_index is None
        if isinstance(quantized.format, GGUFFormat) and plain:
            return ggml_blocks(quantized.to("cpu")), gguf.GGMLQuantizationType[type(quantized.format).__name__]
    weight = weight.float().cpu()
    if weight.abs().max() > _HALF:
        return weight, gguf.GGMLQuantizationType.F32
    return weight.half(), gguf.GGMLQuantizationType.F16


def _rotary_rows(config: Any, name: str, rows: int) -> Tensor | slice:
    """The order of rows: llama.cpp's "llama" rotates neighbouring rows of a head, transformers its two halves."""
    last = name.rpartition(".")[-1]
    if ARCHITECTURES[config.model_type] != "llama" or last not in ("q_proj", "k_proj"):
        return slice(None)
    return torch.arange(rows).view(rows // _head_dim(config), 2, -1).transpose(1, 2).flatten()


def _rope_factors(model: nn.Module) -> Tensor | None:
    """What llama.cpp divides the rotary frequencies by, where a model stretches them; None where it does not."""
    config: Any = model.config
    body: Any = model.base_model
    frequencies = body.rotary_emb.inv_freq.float().cpu()
    steps = torch.arange(0, _head_dim(config), 2, dtype=torch.float64) / _head_dim(config)
    factors = config.rope_parameters["rope_theta"] ** -steps / frequencies
    return None if torch.allclose(factors, torch.ones_like(factors), rtol=1e-5) else factors.float()
