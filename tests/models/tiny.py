"""Tiny random models of every supported class, with weights large enough that each part changes the output."""

from typing import Any

import torch
from torch import nn

VOCABULARY = 96
_BASE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
_MULTI_HEAD = {**_BASE, "num_key_value_heads": 4}
_OPT = {key: _BASE[key] for key in _BASE if key not in ("intermediate_size", "num_key_value_heads")} | {"ffn_dim": 48}
_MOE = {**_BASE, "num_experts_per_tok": 2}

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", _BASE),
    "llama-mha-bias": ("llama", {**_MULTI_HEAD, "attention_bias": True, "mlp_bias": True}),
    "mistral": ("mistral", {**_BASE, "sliding_window": 8}),
    "qwen2": ("qwen2", _BASE),
    "qwen3": ("qwen3", {**_BASE, "head_dim": 16}),
    "gemma2": ("gemma2", {**_BASE, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 8}),
    "gemma3": (
        "gemma3_text",
        {**_BASE, "head_dim": 16, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 2}
        | {"num_hidden_layers": 4},
    ),
    "phi3": ("phi3", _MULTI_HEAD),
    "phi3-gqa": ("phi3", _BASE),
    "opt": ("opt", {**_OPT, "word_embed_proj_dim": 32}),
    "opt-350m": ("opt", {**_OPT, "word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "opt-gelu": ("opt", {**_OPT, "word_embed_proj_dim": 32, "activation_function": "gelu"}),
    "gpt2": ("gpt2", {"vocab_size": VOCABULARY, "n_positions": 64, "n_embd": 32, "n_layer": 3, "n_head": 4}),
    "gpt-neox": ("gpt_neox", _MULTI_HEAD),
    "gpt-neox-sequential": ("gpt_neox", {**_MULTI_HEAD, "use_parallel_residual": False}),
    "mixtral": ("mixtral", {**_MOE, "num_local_experts": 4}),
    "qwen3-moe": (
        "qwen3_moe",
        # Many experts for few tokens, so that a trace leaves some unreached; the first block is dense.
        {**_MOE, "head_dim": 8, "num_experts": 32, "moe_intermediate_size": 16, "mlp_only_layers": [0]},
    ),
}


def build(name: str, **changes: Any) -> Any:
    """A float32 model in eval mode as transformers builds it (not canonicalised)."""
    from transformers import AutoConfig, AutoModelForCausalLM

    model_type, options = CONFIGS[name]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **{**options, **changes}))
    randomise_(model)
    return model.float().eval().requires_grad_(False)


@torch.no_grad()
def randomise_(model: nn.Module) -> None:
    """Weights of unit gain, norms and biases away from their defaults: the library's 0.02 would hide mistakes."""
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.add_(0.3 * torch.randn_like(parameter))
        else:
            parameter.copy_(torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)


def token_ids(batch: int = 2, length: int = 16) -> torch.Tensor:
    """Token ids [batch, length]."""
    return torch.randint(0, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(1))


def tokenizer() -> Any:
    """A word-level tokenizer over "w0" ... with the special tokens of ``_BASE``."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{i}" for i in range(VOCABULARY - 4))]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
