"""A byte-level tokenizer and random Llamas small enough for any test, and a text with some structure."""

import random
from typing import Any

import torch

VOCABULARY = 258


def make_tokenizer(*, adds_bos: bool = False) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {symbol: index for index, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    if adds_bos:
        bos = tokenizer.token_to_id("<s>")
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def make_model(*, context: int = 64, seed: int = 0, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=context,
        # Large random weights: predictions far from uniform, so that a wrong position or target shows.
        initializer_range=0.2,
        **options,
    )
    return LlamaForCausalLM(config).to(dtype).eval()


def make_text(words: int, *, seed: int = 0) -> str:
    generator = random.Random(seed)
    lexicon = ["oak", "river", "runs", "seven", "blue", "stone", "sings", "under", "naïve", "glass,"]
    return " ".join(generator.choice(lexicon) for _ in range(words))
