"""The only place where text becomes random: picking the next word.

Every random choice emits the chosen word at once, from a distribution over distinct words that depends on the words
before it. The text therefore determines the choices, and the sum of -log p over the words is exactly the negative
log-likelihood of the document: its entropy floor.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from random import Random

END = "\n\n"
"""What separates documents; picking it ends a document."""


class Choices:
    """A distribution over distinct words.

    ``cumulative`` ends at 1, ``nll[i]`` is -log p of ``words[i]`` in nats.
    """

    __slots__ = ("cumulative", "nll", "words")

    def __init__(self, weights: Mapping[str, float]) -> None:
        kept = {word: weight for word, weight in weights.items() if weight > 0}
        total = math.fsum(kept.values())
        self.words = list(kept)
        self.cumulative = list(accumulate(weight / total for weight in kept.values()))
        self.nll = [-math.log(weight / total) for weight in kept.values()]


Chooser = Callable[[Choices], int]


def random_chooser(random: Random) -> Chooser:
    """Index of a word drawn with its probability."""

    def choose(choices: Choices) -> int:
        return min(bisect_right(choices.cumulative, random.random()), len(choices.words) - 1)

    return choose


@dataclass(frozen=True)
class Document:
    """Words of one document and, for each of them, -log p in nats given the words before it.

    ``end_nll`` is -log p of the document ending where it does.
    """

    words: tuple[str, ...]
    nll: tuple[float, ...]
    end_nll: float

    @property
    def text(self) -> str:
        """The words joined by single spaces."""
        return " ".join(self.words)


class Writer:
    """Collects the words of a document; ``choose`` maps a distribution to the index of the word taken."""

    def __init__(self, choose: Chooser) -> None:
        self._choose = choose
        self.words: list[str] = []
        self.nll: list[float] = []

    def say(self, *words: str) -> None:
        """Emit words that follow with certainty."""
        self.words.extend(words)
        self.nll.extend([0.0] * len(words))

    def pick(self, choices: Choices) -> str:
        """Emit one word of ``choices`` and return it."""
        index = self._choose(choices)
        word = choices.words[index]
        self.words.append(word)
        self.nll.append(choices.nll[index])
        return word

    def document(self) -> Document:
        """The finished document; its last pick must have been END."""
        assert self.words[-1] == END
        return Document(tuple(self.words[:-1]), tuple(self.nll[:-1]), self.nll[-1])


def zipf(count: int, *, exponent: float = 1.0, shift: float = 2.0) -> list[float]:
    """Weights of ranks 0..count-1 proportional to (rank + shift) ** -exponent, summing to 1 (Zipf-Mandelbrot)."""
    raw = [(rank + shift) ** -exponent for rank in range(count)]
    total = math.fsum(raw)
    return [weight / total for weight in raw]


def scaled(weights: Mapping[str, float], mass: float) -> dict[str, float]:
    """The same proportions with total ``mass``."""
    total = math.fsum(weights.values())
    return {word: mass * weight / total for word, weight in weights.items()}
