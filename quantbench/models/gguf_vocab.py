"""A tokenizer as GGUF metadata, for the byte-level BPE tokenizers whose splitting llama.cpp knows."""

import json
from typing import Any

import gguf

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {  # the pattern that splits text before merging -> llama.cpp's name for it
    _CONTRACTIONS + r"\p{N}{1,3}" + _REST: "llama-bpe",
    _CONTRACTIONS + r"\p{N}" + _REST: "qwen2",
}
_NO_COUNTERPART = "token ids only, for the tokenizer has no counterpart in llama.cpp"


def add_vocabulary(writer: gguf.GGUFWriter, tokenizer: Any, size: int) -> str:
    """Add the tokenizer of ``size`` tokens to the file; returns what was added, in words.

    A tokenizer that llama.cpp could not reproduce is left out: such a file takes token ids.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    description = {} if backend is None else json.loads(backend.to_str())
    split = _split(description)
    if split is None:
        writer.add_tokenizer_model("no_vocab")
        return _NO_COUNTERPART
    tokens = [f"[unused{i}]" for i in range(size)]
    types = [gguf.TokenType.UNUSED] * size
    added = {token["id"]: token for token in description["added_tokens"]}
    for token, index in tokenizer.get_vocab().items():
        if index >= size:  # a token that the model has no embedding for
            continue
        tokens[index], types[index] = token, gguf.TokenType.NORMAL
        if index in added:
            special = added[index]["special"]
            types[index] = gguf.TokenType.CONTROL if special else gguf.TokenType.USER_DEFINED
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in description["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    for kind in ("bos", "eos", "unk", "pad"):
        if (index := getattr(tokenizer, f"{kind}_token_id")) is not None:
            getattr(writer, f"add_{kind}_token_id")(index)
    with_special = tokenizer("a")["input_ids"]
    writer.add_add_bos_token(tokenizer.bos_token_id is not None and with_special[0] == tokenizer.bos_token_id)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)
    return f"tokenizer {split}"


def _split(description: dict[str, Any]) -> str | None:
    """llama.cpp's name of how the tokenizer splits text, None for what it does not know."""
    model, steps = description.get("model") or {}, description.get("pre_tokenizer") or {}
    normalizer = (description.get("normalizer") or {}).get("type")  # NFC leaves almost all text as it is
    if model.get("type") != "BPE" or model.get("byte_fallback") or normalizer not in (None, "NFC"):
        return None
    match steps.get("pretokenizers", [steps]):
        case [{"type": "ByteLevel", "use_regex": True, "add_prefix_space": False}]:
            return "gpt-2"
        case [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "use_regex": True, "add_prefix_space": False},
        ]:
            return "smollm"
        case [{"type": "Split", "pattern": {"Regex": pattern}}, {"type": "ByteLevel", "use_regex": False}]:
            return _SPLITS.get(pattern)
    return None
