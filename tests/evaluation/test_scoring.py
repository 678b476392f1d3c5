from typing import Any

import numpy as np
import pytest
import torch

from quantbench.data.corpora import Documents
from quantbench.evaluation import scoring
from quantbench.evaluation.protocols import make_windows
from quantbench.evaluation.scoring import nll_windows, readout_of
from tests.evaluation.tiny import VOCABULARY, make_model, make_text, make_tokenizer


def windows_of(length: int, words: int = 60) -> Any:
    text = Documents("text", "test", (make_text(words),), "", "")
    return make_windows(f"gptq-{length}", text, make_tokenizer(), max_context=length).windows


def float64_nll(model: Any, window: Any) -> float:
    with torch.no_grad():
        log_probabilities = model(window.ids[None]).logits[0].double().log_softmax(-1)
    return float(-log_probabilities[:-1].gather(1, window.ids[1:, None]).mean())


def gemma2() -> Any:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=64, final_logit_softcapping=2.0,
        initializer_range=0.5, pad_token_id=0,
    )  # fmt: skip
    return Gemma2ForCausalLM(config).eval()


def granite() -> Any:
    from transformers import GraniteConfig, GraniteForCausalLM

    torch.manual_seed(0)
    config = GraniteConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, logits_scaling=8.0, initializer_range=0.5, pad_token_id=0,
    )  # fmt: skip
    return GraniteForCausalLM(config).eval()


def opt() -> Any:
    from transformers import OPTConfig, OPTForCausalLM

    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=VOCABULARY, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, word_embed_proj_dim=16, init_std=0.3, pad_token_id=0,
    )  # fmt: skip
    return OPTForCausalLM(config).eval()


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=0
    )
    return GPT2LMHeadModel(config).eval()


@pytest.mark.parametrize("build", [make_model, gemma2, granite, opt, gpt2], ids=lambda build: build.__name__)
def test_window_nll_equals_float64_softmax_of_the_models_own_logits(build: Any) -> None:
    model, windows = build(), windows_of(48)
    expected = [float64_nll(model, window) for window in windows]
    np.testing.assert_allclose(nll_windows(model, windows, batch_size=3), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("build", "uses_head"), [(make_model, True), (gemma2, True), (opt, True), (gpt2, True), (granite, False)]
)
def test_only_a_model_that_rescales_its_logits_needs_them_in_full(build: Any, uses_head: bool) -> None:
    assert (readout_of(build(), windows_of(48)[0].ids).head is not None) == uses_head


def test_nll_in_pieces_equals_nll_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, windows = make_model(), windows_of(48)
    whole = nll_windows(model, windows)
    monkeypatch.setattr(scoring, "_LOGIT_ELEMENTS", 5 * VOCABULARY)
    np.testing.assert_allclose(nll_windows(model, windows), whole, rtol=1e-6)


def test_bf16_model_is_scored_with_an_fp32_loss() -> None:
    model, windows = make_model(dtype=torch.bfloat16), windows_of(48)
    expected = [float64_nll(model, window) for window in windows]
    np.testing.assert_allclose(nll_windows(model, windows), expected, rtol=2e-3)
