"""Corpora: the papers' text sets from the Hugging Face Hub, the embedded world, and local files."""

import gzip
import hashlib
import json
import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from quantbench.errors import InputError

Markup = Literal["plain", "detokenize", "wikitext-rows", "wikitext-pages"]

FILE_SUFFIXES = (".txt", ".md", ".raw", ".jsonl", ".json", ".jsonl.gz", ".json.gz", ".txt.gz")
_TEXT_FIELDS = ("text", "page", "content")
_PAGE_HEADING = re.compile(r"=[^=].*[^=]=")


@dataclass(frozen=True)
class Documents:
    """The documents of one split of one corpus.

    texts: rows or documents in the corpus's own order; joiner: what the literature puts between them; markup: how the
    raw text and the pages follow from the rows; max_windows: the literature's cap on scored windows, if any;
    fingerprint: sha256 of the texts; path: the file they came from.
    """

    name: str
    split: str
    texts: tuple[str, ...]
    joiner: str
    fingerprint: str
    markup: Markup = "plain"
    max_windows: int | None = None
    path: Path | None = None

    @cached_property
    def text(self) -> str:
        """The rows joined as GPTQ and its successors join them."""
        return self.joiner.join(self.texts)

    @property
    def raw(self) -> str:
        """The text as a file reader (llama.cpp's perplexity) sees it: wikitext's blank rows are lines of one space."""
        if self.markup == "wikitext-rows":
            return "".join(row or " \n" for row in self.texts)
        return self.text

    @property
    def pages(self) -> tuple[str, ...]:
        """The documents that lm-eval scores one by one; wikitext rows are cut at first-level headings."""
        return tuple(_split_pages(self.raw)) if self.markup == "wikitext-rows" else self.texts

    @property
    def detokenized(self) -> bool:
        """Whether lm-eval undoes wikitext's spacing of punctuation before it scores a page of this corpus."""
        return self.markup != "plain"


@dataclass(frozen=True)
class _HubCorpus:
    """Where a corpus lies on the Hub. splits: asked split -> (split there, data file or None)."""

    repository: str
    splits: dict[str, tuple[str, str | None]]
    config: str | None = None
    field: str = "text"
    joiner: str = "\n\n"
    markup: Markup = "plain"
    revision: str | None = None
    validation_documents: int | None = None
    validation_windows: int | None = None


def _same(*names: str) -> dict[str, tuple[str, str | None]]:
    return {name: (name, None) for name in names}


_C4_VALIDATION = ("train", "en/c4-validation.00000-of-00008.json.gz")
_HUB: dict[str, _HubCorpus] = {
    "wikitext2": _HubCorpus(
        "Salesforce/wikitext", _same("train", "validation", "test"), config="wikitext-2-raw-v1", markup="wikitext-rows"
    ),
    "c4": _HubCorpus(
        "allenai/c4",
        {
            "train": ("train", "en/c4-train.00000-of-01024.json.gz"),
            "validation": _C4_VALIDATION,
            "test": _C4_VALIDATION,
        },
        joiner=" ",
        markup="detokenize",
        validation_documents=1100,
        validation_windows=256,
    ),
    # datasets >= 4 runs no loading scripts: for these repositories only the Hub's parquet conversion can be read.
    "ptb": _HubCorpus(
        "ptb-text-only/ptb_text_only",
        _same("train", "validation", "test"),
        config="penn_treebank",
        field="sentence",
        joiner=" ",
        revision="refs/convert/parquet",
    ),
    "pileval": _HubCorpus(
        "mit-han-lab/pile-val-backup",
        dict.fromkeys(("train", "validation", "test"), ("validation", None)),
    ),
    "redpajama": _HubCorpus(
        "togethercomputer/RedPajama-Data-1T-Sample", _same("train"), revision="refs/convert/parquet"
    ),
}
CORPORA = (*sorted(_HUB), "world")


def load_documents(corpus: str, split: str) -> Documents:
    """Load one split of a named corpus, or a local file (``split`` is then ignored).

    Names: wikitext2, c4, ptb, pileval, redpajama (from the Hub, with the recipes of GPTQ's and AWQ's repositories) and
    world (embedded, no download). A ``.raw`` file is read as WikiText's raw release, so that its joined text is the
    Hub's; ``.txt`` and ``.md`` are one document; ``.jsonl`` and ``.json`` hold one document per record.

    Raises:
        InputError: unknown name or split, no such file, an unreadable or empty file, the Hub out of reach.
    """
    if corpus == "world":
        return _load_world(split)
    if corpus in _HUB:
        return _load_hub(corpus, split)
    path = Path(corpus).expanduser()
    if not path.exists() and "/" not in corpus and "\\" not in corpus and not path.suffix:
        near = get_close_matches(corpus, CORPORA, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"unknown corpus {corpus!r}{hint} Allowed: {', '.join(CORPORA)}, or the path of a text file")
    return _load_file(path)


def tokenize(tokenizer: Any, text: str) -> torch.Tensor:
    """Token ids [N] int64 of ``text``, with the special tokens that the tokenizer adds by default."""
    # verbose=False: a whole corpus is longer than any context, and the tokenizer would warn about it.
    return torch.tensor(tokenizer(text, verbose=False)["input_ids"], dtype=torch.int64)


def _documents(name: str, split: str, texts: tuple[str, ...], joiner: str, **options: Any) -> Documents:
    if not any(text.strip() for text in texts):
        raise InputError(f"the text of {options.get('path') or name} is empty")
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return Documents(name, split, texts, joiner, digest.hexdigest(), **options)


def _load_world(split: str) -> Documents:
    from quantbench.data import world

    actual = "calibration" if split == "train" else split
    allowed = ("calibration", "validation", "test")
    if actual not in allowed:
        raise InputError(f"corpus world has no split {split!r}; allowed: {', '.join(allowed)}")
    return _documents("world", actual, tuple(world.corpus(actual)), "\n\n")


def _load_hub(name: str, split: str) -> Documents:
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    recipe = _HUB[name]
    if split not in recipe.splits:
        raise InputError(f"corpus {name} has no split {split!r}; allowed: {', '.join(recipe.splits)}")
    actual, data_file = recipe.splits[split]
    options: dict[str, Any] = {"revision": recipe.revision}
    if data_file:
        options |= {"data_files": {actual: data_file}, "verification_mode": "no_checks"}
    try:
        rows = load_dataset(recipe.repository, recipe.config, split=actual, **options)
    except (OSError, ValueError, RuntimeError, DatasetNotFoundError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"corpus {name} ({recipe.repository}) cannot be loaded: {reason}. Without access to the Hub, give a local "
            "file: evaluation.corpus=FILE or calibration.corpus=FILE, or use the embedded corpus world"
        ) from error
    held_out = split != "train"
    if held_out and recipe.validation_documents:
        rows = rows.select(range(min(recipe.validation_documents, len(rows))))
    return _documents(
        name,
        split,
        tuple(rows[recipe.field]),
        recipe.joiner,
        markup=recipe.markup,
        max_windows=recipe.validation_windows if held_out else None,
    )


def _load_file(path: Path) -> Documents:
    if not path.is_file():
        raise InputError(f"no text file at {path} (corpora by name: {', '.join(CORPORA)})")
    if not path.name.lower().endswith(FILE_SUFFIXES):
        raise InputError(f"cannot read {path} as text by its name; allowed: {', '.join(FILE_SUFFIXES)}")
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    name = path.name.lower().removesuffix(".gz")
    options: dict[str, Any] = {"path": path.resolve()}
    texts: tuple[str, ...] = (text,)
    if name.endswith(".raw"):
        texts = tuple("" if not line.strip() else f"{line}\n" for line in text.removesuffix("\n").split("\n"))
        options["markup"] = "wikitext-rows"
    elif name.endswith((".jsonl", ".json")):
        texts, field = _records(text, path)
        # "page" is the field of the document-level wikitext set that lm-eval's wikitext task reads.
        options["markup"] = "wikitext-pages" if field == "page" else "plain"
    return _documents(path.name, "file", texts, "\n\n", **options)


def _records(text: str, path: Path) -> tuple[tuple[str, ...], str]:
    """The documents of a JSON list or of JSON lines, and the field they were in."""
    try:
        if text.lstrip().startswith("["):
            records = json.loads(text)
        else:
            records = [json.loads(line) for line in text.split("\n") if line.strip()]
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error
    if not records:
        raise InputError(f"the text of {path} is empty")
    first = records[0] if isinstance(records[0], dict) else {}
    field = next((field for field in _TEXT_FIELDS if field in first), "")
    found = [record.get(field) if isinstance(record, dict) else None for record in records]
    texts = tuple(text for text in found if isinstance(text, str))
    if not field or len(texts) != len(records):
        raise InputError(f"{path}: every record must be an object with a text in one of {', '.join(_TEXT_FIELDS)}")
    return texts, field


def _split_pages(raw: str) -> list[str]:
    """Cut wikitext's raw text before every first-level heading (`` = Title = ``)."""
    pages: list[list[str]] = [[]]
    for line in raw.split("\n"):
        heading = line.strip().replace("= = =", "===").replace("= =", "==")
        if _PAGE_HEADING.fullmatch(heading):
            pages.append([])
        pages[-1].append(line)
    texts = ["\n".join(lines) for lines in pages]
    return [text for text in texts if text.strip()]
