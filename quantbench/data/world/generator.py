"""The seeded world and its documents."""

from collections.abc import Iterator, Mapping
from functools import cache
from itertools import islice
from random import Random

from quantbench.data.world.arithmetic import write_ledger
from quantbench.data.world.facts import Register
from quantbench.data.world.grammar import Grammar
from quantbench.data.world.lexicon import make_lexicon
from quantbench.data.world.stories import Stories
from quantbench.data.world.tales import Tales
from quantbench.data.world.writer import Choices, Chooser, Document, Writer, random_chooser

SEED = 20_260
"""Seed of the world that the embedded model was trained on."""

KIND_WEIGHTS = {"Register": 0.52, "Essay": 0.1, "Story": 0.04, "Ledger": 0.07, "Tale": 0.27}
"""How often each kind of document occurs."""


class World:
    """Lexicon, facts and preferences fixed by ``seed``; documents are drawn from it with seeds of their own."""

    def __init__(self, seed: int = SEED, *, kinds: Mapping[str, float] = KIND_WEIGHTS) -> None:
        self.seed = seed
        self.lexicon = make_lexicon(self._random("lexicon"))
        self.register = Register(self.lexicon, self._random("register"))
        self.grammar = Grammar(self.lexicon, self._random("grammar"))
        self.stories = Stories(self.lexicon)
        self._kinds = Choices(kinds)
        self._write = {
            "Register": self.register.write,
            "Essay": self.grammar.write,
            "Story": self.stories.write,
            "Ledger": write_ledger,
            "Tale": Tales(self.lexicon).write,
        }

    def write(self, choose: Chooser, *, kind: str | None = None) -> Document:
        """One document whose choices ``choose`` makes; ``kind`` None draws the kind too."""
        writer = Writer(choose)
        if kind is None:
            kind = writer.pick(self._kinds)
        else:
            writer.say(kind)
        writer.say(":")
        self._write[kind](writer)
        return writer.document()

    def document(self, split: str, index: int, *, kind: str | None = None) -> Document:
        """Document number ``index`` of ``split``. Different splits use different seeds."""
        return self.write(random_chooser(self._random(f"{split}/{index}")), kind=kind)

    def documents(self, split: str, *, start: int = 0, kind: str | None = None) -> Iterator[Document]:
        """All documents of ``split`` from number ``start``, without end."""
        index = start
        while True:
            yield self.document(split, index, kind=kind)
            index += 1

    def take(self, split: str, count: int, *, kind: str | None = None) -> list[Document]:
        """The first ``count`` documents of ``split``."""
        return list(islice(self.documents(split, kind=kind), count))

    def _random(self, name: str) -> Random:
        # Seeding with a string hashes it with SHA-512: streams of different names are unrelated on every platform.
        return Random(f"{self.seed}/{name}")


@cache
def default_world() -> World:
    """The world of the embedded model, made once per process (0.3 s)."""
    return World()
