import json
import random
import re
from pathlib import Path

import pytest
import torch

from quantbench.data.calibration import Calibration, build, contamination
from quantbench.data.corpora import load_documents
from quantbench.errors import InputError
from tests.evaluation.tiny import make_text, make_tokenizer


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(make_text(500))
    return path


@pytest.fixture
def documents_file(tmp_path: Path) -> Path:
    path = tmp_path / "documents.jsonl"
    texts = [make_text(words, seed=words) for words in (3, 40, 8, 60, 20, 5, 33, 12, 90, 7)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.mark.parametrize("slack", [4, 2000], ids=lambda slack: f"{slack}-starts")
def test_random_windows_repeat_gptqs_generator(text_file: Path, slack: int) -> None:
    tokenizer = make_tokenizer(adds_bos=True)
    ids = tokenizer(text_file.read_text(), return_tensors="pt").input_ids
    seqlen = ids.shape[1] - slack
    found = build(Calibration(corpus=str(text_file), num_samples=9, seqlen=seqlen), tokenizer, seed=3)
    random.seed(3)
    expected = []
    for _ in range(9):
        i = random.randint(0, ids.shape[1] - seqlen - 1)
        expected.append(ids[0, i : i + seqlen])
    assert torch.equal(found.ids, torch.stack(expected))


def test_random_documents_repeat_gptqs_generator(documents_file: Path) -> None:
    tokenizer = make_tokenizer()
    config = Calibration(corpus=str(documents_file), num_samples=12, seqlen=100, sampling="random_documents")
    found = build(config, tokenizer, seed=1)
    texts = load_documents(str(documents_file), "train").texts
    random.seed(1)
    expected = []
    for _ in range(12):
        while True:
            i = random.randint(0, len(texts) - 1)
            ids = tokenizer(texts[i], return_tensors="pt").input_ids
            if ids.shape[1] > 100:
                break
        i = random.randint(0, ids.shape[1] - 100 - 1)
        expected.append(ids[0, i : i + 100])
    assert torch.equal(found.ids, torch.stack(expected))


def test_concat_cut_shuffles_like_datasets_and_skips_long_documents(documents_file: Path) -> None:
    from datasets import Dataset

    tokenizer = make_tokenizer()
    config = Calibration(
        corpus=str(documents_file), num_samples=4, seqlen=50, sampling="concat_cut", max_document_tokens=200
    )
    found = build(config, tokenizer, seed=42)
    kept: list[int] = []
    documents = 0
    rows = Dataset.from_dict({"text": list(load_documents(str(documents_file), "train").texts)}).shuffle(seed=42)
    for row in rows:
        ids = tokenizer.encode(row["text"].strip())
        if len(ids) <= 200 and documents < 4:
            kept += ids
            documents += 1
    expected = torch.tensor(kept[: len(kept) // 50 * 50]).reshape(-1, 50)
    assert torch.equal(found.ids, expected)
    assert f"gave {len(expected)} calibration windows" in found.notes[0]


def test_first_takes_the_text_from_its_start(text_file: Path) -> None:
    tokenizer = make_tokenizer()
    config = Calibration(corpus=str(text_file), num_samples=3, seqlen=40, sampling="first")
    found = build(config, tokenizer, seed=5)
    assert found.ids.flatten().tolist() == tokenizer(text_file.read_text())["input_ids"][:120]


def test_the_hash_follows_the_ids(text_file: Path) -> None:
    config = Calibration(corpus=str(text_file), num_samples=4, seqlen=16)
    hashes = [build(config, make_tokenizer(), seed=seed).hash for seed in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize(
    ("sampling", "seqlen", "message"),
    [
        ("random_windows", 9000, "too little text in text.txt"),
        ("first", 2000, "tokens, at least 8000 are needed"),
        ("concat_cut", 2000, "too little text"),
        ("random_documents", 9000, "no document of text.txt"),
    ],
)
def test_too_little_text_says_how_much_there_is(text_file: Path, sampling: str, seqlen: int, message: str) -> None:
    config = Calibration(corpus=str(text_file), num_samples=4, seqlen=seqlen, sampling=sampling)
    with pytest.raises(InputError, match=message):
        build(config, make_tokenizer(), seed=0)


def test_seqlen_beyond_the_context_is_refused(text_file: Path) -> None:
    with pytest.raises(InputError, match=r"calibration\.seqlen=64 is longer .* at most 32"):
        build(Calibration(corpus=str(text_file), seqlen=64), make_tokenizer(), seed=0, max_context=32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling": "best"}, "calibration.sampling='best'; allowed: random_windows"),
        ({"num_samples": 0}, "calibration.num_samples=0"),
        ({"seqlen": 0}, "calibration.seqlen=0"),
    ],
)
def test_values_out_of_range_name_field_value_and_allowed(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Calibration(**options)


def test_a_tokenizer_that_does_not_know_the_text_is_noted(text_file: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<unk>": 0, "oak": 1, "river": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    found = build(Calibration(corpus=str(text_file), num_samples=4, seqlen=16), tokenizer, seed=0)
    assert any("unknown to the tokenizer" in note for note in found.notes)


def test_contamination_is_found_by_text_not_by_file_name(tmp_path: Path) -> None:
    def load(name: str, text: str) -> object:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        return load_documents(str(tmp_path / name), "train")

    test = load("test.txt", f"{make_text(30, seed=1)}\n{make_text(30, seed=2)}")
    copy = load("copy.txt", f"{make_text(30, seed=1)}\n{make_text(30, seed=2)}")
    part = load("part.txt", f"{make_text(30, seed=2)}\n{make_text(30, seed=3)}")
    other = load("other/test.txt", make_text(30, seed=4))
    assert "same text" in contamination(copy, test)
    assert "1 long lines of test.txt" in contamination(part, test)
    assert contamination(other, test) == ""
