"""The register of people: thousands of random facts that a model can only memorise."""

from itertools import accumulate
from random import Random

from quantbench.data.world.lexicon import ATTRIBUTES, Lexicon
from quantbench.data.world.writer import END, Choices, Writer, scaled, zipf

PEOPLE = 8_000
_END_AFTER_PERSON = 0.25
_FEWEST_PEOPLE = 2
_CONTINUE = Choices({",": 0.88, ".": 0.12})
_VERBS = Choices(dict.fromkeys(ATTRIBUTES, 1.0))


class Register:
    """People, how often each is mentioned (Zipf-Mandelbrot), and one value for each of their attributes.

    ``people`` is a list of (first name, last name), most mentioned first; ``facts[person][verb]`` is the value.
    """

    def __init__(self, lexicon: Lexicon, random: Random) -> None:
        pairs = [(first, last) for first in lexicon.first_names for last in lexicon.last_names]
        self.people = random.sample(pairs, PEOPLE)
        likely = {
            group: list(accumulate(zipf(len(values), exponent=0.5, shift=5)))
            for group, values in lexicon.values.items()
        }
        self.facts: dict[tuple[str, str], dict[str, str]] = {}
        for person in self.people:
            self.facts[person] = {
                verb: random.choices(lexicon.values[group], cum_weights=likely[group])[0]
                for verb, group in ATTRIBUTES.items()
            }
        by_first: dict[str, dict[str, float]] = {}
        for (first, last), weight in zip(self.people, zipf(PEOPLE, exponent=0.6, shift=50), strict=True):
            by_first.setdefault(first, {})[last] = weight
        firsts = {first: sum(lasts.values()) for first, lasts in by_first.items()}
        self._first = Choices(firsts)
        self._first_or_end = Choices({**scaled(firsts, 1 - _END_AFTER_PERSON), END: _END_AFTER_PERSON})
        self._last = {first: Choices(lasts) for first, lasts in by_first.items()}

    def write(self, writer: Writer) -> None:
        """Entries such as ``Ana Bol keeps hens , eats figs .`` until the document ends."""
        count = 0
        while True:
            first = writer.pick(self._first if count < _FEWEST_PEOPLE else self._first_or_end)
            if first == END:
                return
            self._entry(writer, first)
            count += 1

    def _entry(self, writer: Writer, first: str) -> None:
        """Attributes in cyclic order from a random one, stopping early at random."""
        facts = self.facts[first, writer.pick(self._last[first])]
        verbs = list(ATTRIBUTES)
        start = verbs.index(writer.pick(_VERBS))
        writer.say(facts[verbs[start]])
        for offset in range(1, len(verbs)):
            if writer.pick(_CONTINUE) == ".":
                return
            verb = verbs[(start + offset) % len(verbs)]
            writer.say(verb, facts[verb])
        writer.say(".")
