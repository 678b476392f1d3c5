import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from quantbench.data import corpora
from quantbench.data.corpora import load_documents
from quantbench.errors import InputError

RAW = " \n = First = \n \n One line . \n = = Section = = \n Two . \n \n = Second = \n \n Three . \n"


def test_raw_file_joins_as_the_hubs_rows_and_reads_back_as_the_file(tmp_path: Path) -> None:
    path = tmp_path / "wiki.test.raw"
    path.write_text(RAW)
    documents = load_documents(str(path), "test")
    hub_rows = ["", " = First = \n", "", " One line . \n", " = = Section = = \n", " Two . \n", "", " = Second = \n", "",
                " Three . \n"]  # fmt: skip
    assert documents.texts == tuple(hub_rows)
    assert documents.text == "\n\n".join(hub_rows)
    assert documents.raw == RAW


def test_raw_file_is_cut_into_pages_at_first_level_headings_only(tmp_path: Path) -> None:
    path = tmp_path / "wiki.test.raw"
    path.write_text(RAW)
    first, second = load_documents(str(path), "test").pages
    assert first.startswith(" = First = ")
    assert "= = Section = =" in first
    assert second.startswith(" = Second = ")


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("a.txt", "one\n\ntwo\n", ("one\n\ntwo\n",)),
        ("a.md", "# title\r\ntext\r\n", ("# title\ntext\n",)),
        ("a.jsonl", '{"text": "one"}\n\n{"text": "two"}\n', ("one", "two")),
        ("a.json", '[{"content": "one"}, {"content": "two"}]', ("one", "two")),
        ("a.json", '{"text": "one", "url": "x"}\n{"text": "two"}', ("one", "two")),
        ("pages.jsonl", '{"page": "one"}\n', ("one",)),
    ],
)
def test_local_formats(tmp_path: Path, name: str, content: str, texts: tuple[str, ...]) -> None:
    for path, data in ((tmp_path / name, content.encode()), (tmp_path / f"{name}.gz", gzip.compress(content.encode()))):
        if path.name != "a.md.gz":
            path.write_bytes(data)
            assert load_documents(str(path), "ignored").texts == texts


def test_fingerprint_is_of_the_text(tmp_path: Path) -> None:
    fingerprints = []
    for name, text in (("a.txt", "same"), ("b.txt", "same"), ("c.txt", "other")):
        (tmp_path / name).write_text(text)
        fingerprints.append(load_documents(str(tmp_path / name), "test").fingerprint)
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"", "is empty"),
        ("blank.txt", b" \n\n", "is empty"),
        ("empty.jsonl", b"", "is empty"),
        ("latin.txt", b"caf\xe9", "cannot read .*latin.txt"),
        ("cut.txt.gz", gzip.compress(b"text" * 99, mtime=0)[:20], "cannot read .*cut.txt.gz"),
        ("bad.jsonl", b'{"text": ', "is not valid JSON"),
        ("other.jsonl", b'{"body": "x"}\n', "text in one of text, page, content"),
        ("mixed.jsonl", b'{"text": "x"}\n{"text": 3}\n', "text in one of"),
        ("strings.json", b'["x"]', "text in one of"),
        ("model.bin", b"x", "allowed: .txt, .md"),
    ],
)
def test_unusable_files_are_one_line_errors(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        load_documents(str(tmp_path / name), "test")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ("wikitext", r"unknown corpus 'wikitext'; did you mean wikitext2\?"),
        ("zzz", "Allowed: c4, pileval, ptb, redpajama, wikitext2, world, or the path"),
        ("no/such/file.txt", "no text file at no/such/file.txt"),
    ],
)
def test_unknown_names_and_paths(corpus: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_documents(corpus, "test")


def test_c4_validation_is_the_first_1100_documents_joined_by_a_space(monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import Dataset

    asked: dict[str, Any] = {}

    def load(repository: str, config: str | None, **options: Any) -> Dataset:
        asked.update(options, repository=repository)
        return Dataset.from_dict({"text": [f"document {index}" for index in range(1500)]})

    monkeypatch.setattr("datasets.load_dataset", load)
    documents = load_documents("c4", "validation")
    assert asked["repository"] == "allenai/c4"
    assert list(asked["data_files"].values()) == ["en/c4-validation.00000-of-00008.json.gz"]
    assert documents.text == " ".join(f"document {index}" for index in range(1100))
    assert documents.max_windows == 256
    assert len(load_documents("c4", "train").texts) == 1500


@pytest.mark.parametrize("corpus", sorted(corpora._HUB))
def test_without_the_hub_the_error_says_what_to_do(corpus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*arguments: Any, **options: Any) -> None:
        raise ConnectionError("Couldn't reach the Hub\nlong trace")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    with pytest.raises(InputError, match=r"Couldn't reach the Hub.*evaluation\.corpus=FILE") as caught:
        load_documents(corpus, "train")
    assert "\n" not in str(caught.value)


def test_a_split_that_does_not_exist_names_those_that_do() -> None:
    with pytest.raises(InputError, match="no split 'dev'; allowed: train, validation, test"):
        load_documents("wikitext2", "dev")


def test_wikitext_pages_come_from_the_page_field(tmp_path: Path) -> None:
    (tmp_path / "pages.jsonl").write_text(json.dumps({"page": " = A = \n x @-@ y \n"}) + "\n")
    assert load_documents(str(tmp_path / "pages.jsonl"), "test").detokenized
