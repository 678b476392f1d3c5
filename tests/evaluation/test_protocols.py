import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantbench.data.corpora import Documents, load_documents
from quantbench.errors import InputError
from quantbench.evaluation.protocols import WindowSet, make_windows
from quantbench.evaluation.results import corpus_measurements
from quantbench.evaluation.scoring import nll_windows
from tests.evaluation.tiny import make_model, make_text, make_tokenizer


def documents(*texts: str, joiner: str = "\n\n") -> Documents:
    return Documents("text", "test", texts, joiner, "fingerprint")


def perplexity(model: object, windows: WindowSet, batch_size: int = 4) -> float:
    nll = nll_windows(model, windows.windows, batch_size=batch_size)
    return corpus_measurements("text", windows, nll)[0].value


def test_gptq_protocol_equals_a_loop_over_full_logits() -> None:
    model, tokenizer, text = make_model(context=64), make_tokenizer(adds_bos=True), make_text(100)
    windows = make_windows("gptq-64", documents(text, text), tokenizer, max_context=64)

    ids = tokenizer(text + "\n\n" + text, return_tensors="pt").input_ids
    losses = []
    with torch.no_grad():
        for i in range(ids.shape[1] // 64):
            window = ids[:, 64 * i : 64 * (i + 1)]
            losses.append(model(window, labels=window).loss.item())
    assert len(windows.windows) == len(losses) > 10
    assert perplexity(model, windows) == pytest.approx(math.exp(np.mean(losses)), rel=1e-5)


def test_hqq_protocol_equals_its_evaluation_loop() -> None:
    model, tokenizer, text = make_model(context=1024), make_tokenizer(), make_text(600)
    windows = make_windows("hqq-1024-512", documents(text), tokenizer, max_context=1024)

    ids = tokenizer(text, return_tensors="pt").input_ids
    total = 0.0
    for offset in range(0, ids.shape[1], 512):
        begin, end = max(offset + 512 - 1024, 0), min(offset + 512, ids.shape[1])
        labels = ids[:, begin:end].clone()
        labels[:, : -(end - offset)] = -100
        with torch.no_grad():
            total += model(ids[:, begin:end], labels=labels).loss.item() * (end - offset)
    assert ids.shape[1] % 512 != 0
    assert perplexity(model, windows) == pytest.approx(math.exp(total / ids.shape[1]), rel=1e-5)


@pytest.mark.parametrize("adds_bos", [True, False])
def test_llamacpp_protocol_scores_the_last_255_of_512(adds_bos: bool) -> None:
    model, tokenizer, text = make_model(context=512), make_tokenizer(adds_bos=adds_bos), make_text(300)
    windows = make_windows("llamacpp-512", documents(text), tokenizer, max_context=512)

    ids = tokenizer(text, return_tensors="pt").input_ids[0]
    losses = []
    for i in range(len(ids) // 512):
        chunk = ids[512 * i : 512 * (i + 1)].clone()
        if adds_bos:
            chunk[0] = tokenizer.bos_token_id
        with torch.no_grad():
            log_probabilities = model(chunk[None]).logits[0].double().log_softmax(-1)
        losses += [-log_probabilities[j, chunk[j + 1]].item() for j in range(256, 511)]
    assert len(losses) == 255 * len(windows.windows)
    assert len(windows.windows) > 2
    assert perplexity(model, windows) == pytest.approx(math.exp(np.mean(losses)), rel=1e-5)


@settings(deadline=None, max_examples=60)
@given(length=st.integers(1, 200), context=st.integers(1, 70))
def test_rolling_windows_are_lm_evals(length: int, context: int) -> None:
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    tokenizer, text = TOKENIZER, make_text(60)[:length]
    ours = make_windows("lm-eval-byte", documents(text), tokenizer, max_context=context).windows
    tokens = tokenizer(text)["input_ids"]
    theirs = [
        make_disjoint_window(pair)
        for pair in get_rolling_token_windows(tokens, tokenizer.bos_token_id, max_seq_len=context, context_len=1)
    ]
    assert [(w.ids[: w.first_target].tolist(), w.targets.tolist()) for w in ours] == theirs


TOKENIZER = make_tokenizer()


def test_word_and_byte_perplexity_equal_lm_evals_wikitext_task(tmp_path: Path) -> None:
    import lm_eval
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    pages = [f" = Page {seed} = \n \n {make_text(40, seed=seed)} @-@ ( a , b ) . \n" for seed in range(3)]
    data = tmp_path / "pages.jsonl"
    data.write_text("".join(json.dumps({"page": page}) + "\n" for page in pages))
    original = Path(lm_eval.__file__).parent / "tasks" / "wikitext" / "wikitext.yaml"
    (tmp_path / "wikitext_local.yaml").write_text(
        f"include: {original}\ntask: wikitext_local\ndataset_path: json\ndataset_name: null\n"
        f"dataset_kwargs:\n  data_files:\n    test: {data}\ntraining_split: null\nvalidation_split: null\n"
    )
    model, tokenizer = make_model(context=64), make_tokenizer()
    expected = simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1),
        tasks=["wikitext_local"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        bootstrap_iters=0,
    )["results"]["wikitext_local"]

    text = load_documents(str(data), "test")
    for protocol, metric in (("lm-eval-word", "word_perplexity"), ("lm-eval-byte", "byte_perplexity")):
        windows = make_windows(protocol, text, tokenizer, max_context=64)
        assert perplexity(model, windows) == pytest.approx(expected[f"{metric},none"], rel=1e-5)


def test_max_windows_keeps_the_first_windows() -> None:
    text, tokenizer = documents(make_text(300)), make_tokenizer()
    everything = make_windows("gptq-64", text, tokenizer, max_context=64)
    two = make_windows("gptq-64", text, tokenizer, max_context=64, max_windows=2)
    assert [w.ids.tolist() for w in two.windows] == [w.ids.tolist() for w in everything.windows[:2]]
    assert two.hash != everything.hash


@pytest.mark.parametrize(
    ("protocol", "context", "words", "message"),
    [
        ("gptq-2048", 512, 3000, "the model's context is 512; allowed: gptq-N with N up to 512"),
        ("hqq-1024-512", 512, 3000, "windows of 1024 tokens"),
        ("llamacpp-512", 256, 3000, "windows of 512 tokens"),
        ("gptq-64", 64, 5, "shorter than one window of evaluation.protocol=gptq-64"),
        ("llamacpp-512", 512, 20, "shorter than one window"),
        ("hqq-1024-512", 1024, 120, "shorter than one window"),
    ],
)
def test_impossible_windows_say_what_is_allowed(protocol: str, context: int, words: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_windows(protocol, documents(make_text(words)), make_tokenizer(), max_context=context)
