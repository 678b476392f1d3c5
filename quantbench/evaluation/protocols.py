"""Perplexity protocols: which tokens are scored, with which context, and what the sum is divided by."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from quantbench.data.corpora import Documents, tokenize
from quantbench.errors import InputError
from quantbench.evaluation.config import gptq_length

_LLAMACPP_CONTEXT = 512
_HQQ_WINDOW, _HQQ_STRIDE = 1024, 512


@dataclass(frozen=True)
class Window:
    """One forward pass: tokens ``ids[first_target:]`` are predicted, each from all tokens before it.

    ids [L] int64; sample: the key of the sample it counts towards; weight: what its mean NLL is multiplied by in that
    sample's sum (the number of targets, except where a protocol's own code differs); start: offset of ids[0] in the
    tokenised corpus, where the window is a piece of it.
    """

    ids: torch.Tensor
    first_target: int
    sample: str
    weight: float
    start: int | None = None

    @property
    def targets(self) -> torch.Tensor:
        """The predicted tokens [T]."""
        return self.ids[self.first_target :]


@dataclass(frozen=True)
class WindowSet:
    """A protocol applied to a text. normalisers: what each sample's summed NLL is divided by; unit: of the result."""

    protocol: str
    windows: tuple[Window, ...]
    normalisers: dict[str, float]
    unit: str
    hash: str


def make_windows(
    protocol: str,
    documents: Documents,
    tokenizer: Any,
    *,
    max_context: int,
    max_windows: int | None = None,
) -> WindowSet:
    """Tokenise ``documents`` and cut them as ``protocol`` says.

    Raises:
        InputError: the protocol's window exceeds ``max_context``, or the text is shorter than one window.
    """
    length = gptq_length(protocol)
    limits = [max_windows, documents.max_windows if length else None]
    limit = min((limit for limit in limits if limit is not None), default=None)
    normalisers: dict[str, float] = {}
    if protocol in ("lm-eval-word", "lm-eval-byte"):
        count = _count_words if protocol == "lm-eval-word" else _count_bytes
        pages = dict(islice(((f"{index:05d}", page) for index, page in enumerate(documents.pages)), limit))
        windows = tuple(
            window
            for key, page in pages.items()
            for window in _rolling(key, _detokenized(page, documents), tokenizer, max_context)
        )
        normalisers = {key: float(count(page)) for key, page in pages.items()}
        unit = "ppl/word" if protocol == "lm-eval-word" else "ppl/byte"
    else:
        if length is not None:
            _check_context(protocol, length, max_context)
            stream = _consecutive(tokenize(tokenizer, documents.text), length)
        elif protocol == "llamacpp-512":
            _check_context(protocol, _LLAMACPP_CONTEXT, max_context)
            stream = _llamacpp(documents.raw, tokenizer)
        else:
            assert protocol == "hqq-1024-512"
            _check_context(protocol, _HQQ_WINDOW, max_context)
            stream = _strided(tokenize(tokenizer, documents.text))
        windows = tuple(islice(stream, limit))
        normalisers = {window.sample: window.weight for window in windows}
        unit = "ppl"
    if not windows:
        tokens = len(tokenize(tokenizer, documents.text))
        raise InputError(
            f"the text of {documents.name} is shorter than one window of evaluation.protocol={protocol}: it has "
            f"{tokens} tokens; use a longer text or gptq-N with N up to {tokens}"
        )
    return WindowSet(protocol, windows, normalisers, unit, _hash(windows))


def _check_context(protocol: str, length: int, max_context: int) -> None:
    if length > max_context:
        raise InputError(
            f"evaluation.protocol={protocol} needs windows of {length} tokens, the model's context is {max_context}; "
            f"allowed: gptq-N with N up to {max_context}, lm-eval-word, lm-eval-byte"
        )


def _consecutive(ids: torch.Tensor, length: int) -> Iterator[Window]:
    """GPTQ: non-overlapping windows of the joined text, tail dropped, the first token of a window not scored."""
    for index in range(len(ids) // length):
        start = index * length
        yield Window(ids[start : start + length], 1, f"{index:05d}", float(length - 1), start)


def _strided(ids: torch.Tensor) -> Iterator[Window]:
    """HQQ: every token is scored once, with 512 to 1023 tokens of context after the first two strides.

    Its evaluation code multiplies each window's mean by the tokens it covers, so the first window, whose first token
    has no prediction, weighs 512 and not 511.
    """
    if len(ids) < _HQQ_WINDOW:
        return
    for index, offset in enumerate(range(0, len(ids), _HQQ_STRIDE)):
        begin, end = max(offset + _HQQ_STRIDE - _HQQ_WINDOW, 0), min(offset + _HQQ_STRIDE, len(ids))
        covered = end - offset
        first_target = max(end - begin - covered, 1)
        yield Window(ids[begin:end], first_target, f"{index:05d}", float(covered), begin)


def _llamacpp(raw: str, tokenizer: Any) -> Iterator[Window]:
    """llama.cpp's perplexity: chunks of the raw text, the first token replaced by BOS where the vocabulary adds one,
    and only predictions made with at least half a context scored (the last 255 of a chunk of 512)."""
    ids = tokenize(tokenizer, raw)
    bos = tokenizer.bos_token_id
    adds_bos = bos is not None and tokenizer("a")["input_ids"][:1] == [bos]
    for index in range(len(ids) // _LLAMACPP_CONTEXT):
        start = index * _LLAMACPP_CONTEXT
        chunk = ids[start : start + _LLAMACPP_CONTEXT].clone()
        if adds_bos:
            chunk[0] = bos
        first_target = _LLAMACPP_CONTEXT // 2 + 1
        yield Window(chunk, first_target, f"{index:05d}", float(_LLAMACPP_CONTEXT - first_target), start)


def _rolling(key: str, page: str, tokenizer: Any, max_context: int) -> Iterator[Window]:
    """lm-eval: the first window predicts its tokens after a prefix token; later ones predict the next max_context
    tokens from the one before them; the last is shifted back to a full context."""
    prefix = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if prefix is None:
        raise InputError("the lm-eval protocols need a tokenizer with a bos or eos token")
    ids = torch.cat([torch.tensor([prefix]), tokenize(tokenizer, page)])
    scored = 1
    while scored < len(ids):
        end = min(scored + max_context, len(ids))
        begin = scored - 1 if scored == 1 else max(end - max_context - 1, 0)
        window = ids[begin:end]
        first_target = scored - begin
        yield Window(window, first_target, key, float(len(window) - first_target))
        scored = end


def _detokenized(page: str, documents: Documents) -> str:
    if not documents.detokenized:
        return page
    from lm_eval.tasks.wikitext.preprocess_wikitext import wikitext_detokenizer

    return wikitext_detokenizer({"page": page})


def _count_words(page: str) -> int:
    return len(re.split(r"\s+", page))


def _count_bytes(page: str) -> int:
    return len(page.encode("utf-8"))


def _hash(windows: tuple[Window, ...]) -> str:
    digest = hashlib.sha256()
    for window in windows:
        digest.update(f"{window.sample}/{window.first_target}/{window.weight};".encode())
        digest.update(window.ids.contiguous().numpy().tobytes())
    return digest.hexdigest()
