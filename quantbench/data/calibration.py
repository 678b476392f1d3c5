"""Calibration sets: which token windows a method sees, by the sampling recipes of the papers."""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from quantbench.data.corpora import Documents, load_documents, tokenize
from quantbench.errors import InputError

_UNKNOWN_SHARE = 0.2
_LONG_LINE = 80


@dataclass
class Calibration:
    """What to calibrate on.

    corpus: a name or a file (``quantbench.data.corpora.load_documents``); num_samples: windows (``concat_cut``:
    documents); seqlen: tokens per window; sampling: ``random_windows`` (GPTQ on wikitext2: windows of the joined text),
    ``random_documents`` (GPTQ on C4: a window of a random document that is long enough), ``concat_cut`` (AWQ: shuffled
    documents of at most max_document_tokens, concatenated and cut) or ``first`` (the text's first windows).

    Raises:
        ValueError: a field out of its range.
    """

    corpus: str = "c4"
    split: str = "train"
    num_samples: int = 128
    seqlen: int = 2048
    sampling: str = "random_windows"
    max_document_tokens: int = 512

    def __post_init__(self) -> None:
        if self.sampling not in _SAMPLERS:
            raise ValueError(f"calibration.sampling={self.sampling!r}; allowed: {', '.join(_SAMPLERS)}")
        for name in ("num_samples", "seqlen", "max_document_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"calibration.{name}={getattr(self, name)}; allowed: an integer of at least 1")


@dataclass(frozen=True)
class CalibrationSet:
    """Windows of token ids [n, seqlen] int64, the sha256 of those ids, their source and what to warn about."""

    ids: torch.Tensor
    hash: str
    documents: Documents = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The corpus the windows came from."""
        return self.documents.name

    @property
    def fingerprint(self) -> str:
        """sha256 of the documents' text, before tokenisation."""
        return self.documents.fingerprint


def build(config: Calibration, tokenizer: Any, seed: int, *, max_context: int | None = None) -> CalibrationSet:
    """Load, tokenise and sample the calibration windows; the same arguments give the same ids.

    Raises:
        InputError: the corpus cannot be loaded, holds too little text, or seqlen exceeds the model's context.
    """
    if max_context is not None and config.seqlen > max_context:
        raise InputError(
            f"calibration.seqlen={config.seqlen} is longer than the model's context; allowed: at most {max_context}"
        )
    documents = load_documents(config.corpus, config.split)
    ids, notes = _SAMPLERS[config.sampling](config, documents, tokenizer, seed)
    assert ids.ndim == 2
    assert ids.shape[1] == config.seqlen
    unknown = _unknown_share(ids, tokenizer)
    if unknown > _UNKNOWN_SHARE:
        notes = (*notes, f"{unknown:.0%} of the calibration tokens from {documents.name} are unknown to the tokenizer")
    return CalibrationSet(ids, hashlib.sha256(ids.contiguous().numpy().tobytes()).hexdigest(), documents, notes)


def contamination(calibration: Documents, evaluation: Documents) -> str:
    """Why calibrating on one and scoring on the other is contamination, in one line; empty when it is not.

    Two splits of one corpus count: the method has then seen the evaluated distribution. So do shared long lines.
    """
    if calibration.path is None and evaluation.path is None and calibration.name == evaluation.name:
        return f"calibrated and evaluated on the same corpus, {calibration.name}"
    if calibration.fingerprint == evaluation.fingerprint or (calibration.path and calibration.path == evaluation.path):
        return f"calibrated and evaluated on the same text ({calibration.name})"
    shared = len(_long_lines(calibration) & _long_lines(evaluation))
    if shared:
        return f"{shared} long lines of {evaluation.name} are in the calibration text {calibration.name}"
    return ""


def _long_lines(documents: Documents) -> set[str]:
    lines = (line.strip() for text in documents.texts for line in text.split("\n"))
    return {line for line in lines if len(line) >= _LONG_LINE}


def _unknown_share(ids: torch.Tensor, tokenizer: Any) -> float:
    unknown = getattr(tokenizer, "unk_token_id", None)
    return 0.0 if unknown is None else float((ids == unknown).double().mean())


def _too_little(config: Calibration, documents: Documents, have: int, need: int) -> InputError:
    return InputError(
        f"too little text in {documents.name} ({documents.split}) for calibration.sampling={config.sampling} with "
        f"num_samples={config.num_samples} and seqlen={config.seqlen}: {have} tokens, at least {need} are needed"
    )


_Sampled = tuple[torch.Tensor, tuple[str, ...]]


def _random_windows(config: Calibration, documents: Documents, tokenizer: Any, seed: int) -> _Sampled:
    """Windows at random offsets of the joined text, in the order of GPTQ's generator."""
    ids = tokenize(tokenizer, documents.text)
    if len(ids) < config.seqlen + 1:
        raise _too_little(config, documents, len(ids), config.seqlen + 1)
    generator = random.Random(seed)
    starts = [generator.randint(0, len(ids) - config.seqlen - 1) for _ in range(config.num_samples)]
    notes: tuple[str, ...] = ()
    if len(ids) < config.num_samples * config.seqlen:
        notes = (
            f"{config.num_samples} calibration windows of {config.seqlen} overlap: {documents.name} has "
            f"only {len(ids)} tokens",
        )
    return torch.stack([ids[start : start + config.seqlen] for start in starts]), notes


def _random_documents(config: Calibration, documents: Documents, tokenizer: Any, seed: int) -> _Sampled:
    """A random window of a random document longer than seqlen, drawn again until one is long enough (GPTQ on C4)."""
    generator = random.Random(seed)
    too_short: set[int] = set()
    windows: list[torch.Tensor] = []
    longest = 0
    while len(windows) < config.num_samples:
        index = generator.randint(0, len(documents.texts) - 1)
        if index not in too_short:
            ids = tokenize(tokenizer, documents.texts[index])
            if len(ids) > config.seqlen:
                start = generator.randint(0, len(ids) - config.seqlen - 1)
                windows.append(ids[start : start + config.seqlen])
                continue
            too_short.add(index)
            longest = max(longest, len(ids))
        if len(too_short) == len(documents.texts):
            raise InputError(
                f"no document of {documents.name} ({documents.split}) has more than calibration.seqlen="
                f"{config.seqlen} tokens (the longest has {longest}); use calibration.sampling=random_windows"
            )
    return torch.stack(windows), ()


def _concat_cut(config: Calibration, documents: Documents, tokenizer: Any, seed: int) -> _Sampled:
    """AWQ's recipe: the first num_samples short documents of a shuffle, concatenated and cut to seqlen.

    The shuffle is the permutation that ``datasets.Dataset.shuffle(seed)`` applies, so the paper's set is seed=42.
    """
    kept: list[torch.Tensor] = []
    for index in np.random.default_rng(seed).permutation(len(documents.texts)):
        ids = tokenize(tokenizer, documents.texts[index].strip())
        if 0 < len(ids) <= config.max_document_tokens:
            kept.append(ids)
            if len(kept) == config.num_samples:
                break
    total = sum(len(ids) for ids in kept)
    count = total // config.seqlen
    if count == 0:
        raise _too_little(config, documents, total, config.seqlen)
    ids = torch.cat(kept)[: count * config.seqlen].reshape(count, config.seqlen)
    return ids, (f"{len(kept)} documents of {documents.name} gave {count} calibration windows of {config.seqlen}",)


def _first(config: Calibration, documents: Documents, tokenizer: Any, seed: int) -> _Sampled:
    """The first num_samples windows of the joined text; no randomness."""
    ids = tokenize(tokenizer, documents.text)
    need = config.num_samples * config.seqlen
    if len(ids) < need:
        raise _too_little(config, documents, len(ids), need)
    return ids[:need].reshape(config.num_samples, config.seqlen), ()


_SAMPLERS: dict[str, Callable[[Calibration, Documents, Any, int], _Sampled]] = {
    "random_windows": _random_windows,
    "random_documents": _random_documents,
    "concat_cut": _concat_cut,
    "first": _first,
}
