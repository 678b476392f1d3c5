"""Held-out text of the world and the entropy floor of every token of it."""

from quantbench.data.world.generator import default_world
from quantbench.data.world.writer import Document
from quantbench.errors import InputError

SPLITS = {"calibration": 3400, "validation": 600, "test": 900}
"""Split -> documents when no number is asked for: about 350,000, 62,000 and 88,000 tokens."""


def _documents(split: str, documents: int | None) -> list[Document]:
    if split not in SPLITS:
        raise InputError(f"split={split!r} is not a split of the embedded world; allowed: {', '.join(SPLITS)}")
    if documents is not None and documents < 1:
        raise InputError(f"documents={documents} is too few; allowed: 1 or more")
    return default_world().take(split, documents or SPLITS[split])


def corpus(split: str, documents: int | None = None) -> list[str]:
    """The documents of ``split``, always the same, none of them from the seeds of the training text.

    Raises InputError for an unknown split or fewer than one document.
    """
    return [document.text for document in _documents(split, documents)]


def floor(split: str, documents: int | None = None) -> list[float]:
    """-log p in nats of every token of ``corpus(split, documents)`` joined by blank lines, in order.

    p is the generator's own probability of the token given the document so far, blank lines included. No model can
    expect a lower cross-entropy, so exp(mean) is the lowest perplexity that anything but luck can reach.
    """
    nll: list[float] = []
    for document in _documents(split, documents):
        nll.extend(document.nll)
        nll.append(document.end_nll)
    return nll[:-1]
