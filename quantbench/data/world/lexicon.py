"""The words of the invented world: names, towns, things, nouns with number, verbs with agreement."""

from dataclasses import dataclass
from random import Random

ATTRIBUTES = {
    "inhabits": "towns",
    "keeps": "animals",
    "eats": "foods",
    "sells": "wares",
    "plays": "games",
    "fears": "terrors",
}
"""Verb of each attribute of a person -> the value set it draws from."""

PREPOSITIONS = ("near", "behind", "above", "beside", "under", "beyond")
DETERMINERS = {"the": 0.58, "a": 0.16, "every": 0.08, "some": 0.09, "many": 0.09}
SINGULAR_ONLY = ("a", "every")
PLURAL_ONLY = ("some", "many")
OPERATIONS = ("plus", "minus", "times")
LARGEST_NUMBER = 99
KINDS = ("Register", "Essay", "Story", "Ledger")
TALE_WORDS = ("Tale", "gets")
"""Last in the vocabulary, because the first training phase has no tales and its token ids must not move."""
FUNCTION_WORDS = (
    ":", ",", ".", "and", "that", "waits", "at", "holds", "goes", "to", "gives", "Now", "is", "with",
)  # fmt: skip

_ONSETS = ["b", "d", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "z", "br", "dr", "gr"]
_ONSETS += ["kr", "pl", "st", "tr", "sh", "th"]
_VOWELS = ["a", "e", "i", "o", "u", "ai", "ea", "ou"]
_CODAS = ["n", "r", "l", "m", "k", "t", "d", "p"]


@dataclass(frozen=True)
class Lexicon:
    """Every content word. ``nouns`` and ``verbs`` hold (singular form, plural form); all forms are distinct words."""

    first_names: tuple[str, ...]
    last_names: tuple[str, ...]
    values: dict[str, tuple[str, ...]]
    objects: tuple[str, ...]
    places: tuple[str, ...]
    nouns: tuple[tuple[str, str], ...]
    verbs: tuple[tuple[str, str], ...]
    adjectives: tuple[str, ...]
    adverbs: tuple[str, ...]

    def words(self) -> list[str]:
        """Every word of the world, function words and numbers included, in a fixed order without repeats."""
        groups = [
            FUNCTION_WORDS, KINDS, DETERMINERS, PREPOSITIONS, OPERATIONS, ATTRIBUTES,
            [str(number) for number in range(LARGEST_NUMBER + 1)],
            self.first_names, self.last_names, *self.values.values(), self.objects, self.places,
            [form for pair in (*self.nouns, *self.verbs) for form in pair], self.adjectives, self.adverbs, TALE_WORDS,
        ]  # fmt: skip
        return list(dict.fromkeys(word for group in groups for word in group))


def _stems(random: Random, count: int) -> list[str]:
    """Distinct pronounceable stems of two syllables, the second one closed."""
    stems: dict[str, None] = {}
    while len(stems) < count:
        first, second = random.choice(_ONSETS), random.choice(_ONSETS)
        stems[first + random.choice(_VOWELS) + second + random.choice(_VOWELS) + random.choice(_CODAS)] = None
    return list(stems)


def make_lexicon(random: Random) -> Lexicon:
    """Invent all content words. No stem is used twice, so no word belongs to two groups."""
    sizes = {"first": 160, "last": 160, **dict.fromkeys(ATTRIBUTES.values(), 100)}
    sizes |= {"objects": 40, "places": 30, "nouns": 160, "verbs": 90, "adjectives": 50, "adverbs": 30}
    stems = iter(_stems(random, sum(sizes.values())))
    groups = {name: tuple(next(stems) for _ in range(size)) for name, size in sizes.items()}

    def capitalised(name: str) -> tuple[str, ...]:
        return tuple(word.capitalize() for word in groups[name])

    values = {name: groups[name] for name in ATTRIBUTES.values()}
    values["towns"] = capitalised("towns")
    return Lexicon(
        first_names=capitalised("first"),
        last_names=capitalised("last"),
        values=values,
        objects=groups["objects"],
        places=groups["places"],
        nouns=tuple((word, word + "s") for word in groups["nouns"]),
        verbs=tuple((word + "es", word + "e") for word in groups["verbs"]),
        adjectives=tuple(word + "ish" for word in groups["adjectives"]),
        adverbs=tuple(word + "ly" for word in groups["adverbs"]),
    )
