"""Sentences with number agreement across distractor phrases and relative clauses.

    S   -> NP[n] VP[n] .
    NP  -> Det (Adj) N[n] | Det (Adj) N[n] P NP | Det (Adj) N[n] that V[n] NP | Det (Adj) N[n] that NP[m] V[m]
    VP  -> V[n] | V[n] Adv | V[n] NP | V[n] NP and VP[n]

A phrase that may end is written together with what may follow it, because every choice must be visible in the next
word: ``_noun_phrase`` gets the words that can follow the phrase and returns the one that was picked.
"""

from functools import cache
from random import Random

from quantbench.data.world.lexicon import DETERMINERS, PLURAL_ONLY, PREPOSITIONS, SINGULAR_ONLY, Lexicon
from quantbench.data.world.writer import END, Choices, Writer, scaled, zipf

SINGULAR, PLURAL = 0, 1
_DEEPEST = 2
_FEWEST_SENTENCES = 3
_ADJECTIVE, _PHRASE, _CLAUSE = 0.25, 0.18, 0.16
_START_OR_END = Choices({**scaled(DETERMINERS, 0.85), END: 0.15})
_START = Choices(DETERMINERS)
_AFTER_OBJECT = {".": 0.9, "and": 0.1}


def _preferences(random: Random, words: tuple, count: int) -> dict:
    """A random choice of ``count`` of the words with Zipf weights: what goes with what in this world."""
    return dict(zip(random.sample(words, count), zipf(count), strict=True))


class Grammar:
    """Which nouns, verbs, objects and adverbs go together, and sentences made of them."""

    def __init__(self, lexicon: Lexicon, random: Random) -> None:
        self.number_of = {form: number for pair in lexicon.nouns for number, form in enumerate(pair)}
        self._nouns = dict(zip(lexicon.nouns, zipf(len(lexicon.nouns)), strict=True))
        self._adjectives = dict(zip(lexicon.adjectives, zipf(len(lexicon.adjectives)), strict=True))
        self._verbs_of = {form: verbs for pair in lexicon.nouns
                          for verbs in [_preferences(random, lexicon.verbs, 10)] for form in pair}  # fmt: skip
        self._objects_of, self._adverbs_of = {}, {}
        for pair in lexicon.verbs:
            objects, adverbs = _preferences(random, lexicon.nouns, 12), _preferences(random, lexicon.adverbs, 5)
            for form in pair:
                self._objects_of[form], self._adverbs_of[form] = objects, adverbs
        self._follows = cache(self._make_follows)
        self._heads = cache(self._make_heads)
        self._after_noun = cache(self._make_after_noun)
        self._after_that = cache(self._make_after_that)
        self._after_verb = cache(self._make_after_verb)

    def write(self, writer: Writer) -> None:
        """Sentences until the document ends."""
        count = 0
        while (start := writer.pick(_START if count < _FEWEST_SENTENCES else _START_OR_END)) != END:
            self._sentence(writer, start)
            count += 1

    def subject(self, writer: Writer) -> tuple[str, str]:
        """Write a subject and, as the last word, its verb; returns (head noun, verb)."""
        return self._noun_phrase(writer, writer.pick(_START), depth=0, verb="", follow=None)

    def _sentence(self, writer: Writer, determiner: str) -> None:
        noun, verb = self._noun_phrase(writer, determiner, depth=0, verb="", follow=None)
        while (after := writer.pick(self._after_verb(verb))) in DETERMINERS:
            follow = self._noun_phrase(writer, after, depth=1, verb=verb, follow=("object", ""))[1]
            if follow == ".":
                return
            verb = writer.pick(self._follows(("verb", noun)))
        if after != ".":
            writer.say(".")

    def _noun_phrase(
        self, writer: Writer, determiner: str, *, depth: int, verb: str, follow: tuple[str, str] | None
    ) -> tuple[str, str]:
        """Write what comes after ``determiner`` and one word that follows the phrase; returns (head noun, that word).

        ``verb`` is the verb whose object this is ("" for a subject); ``follow`` None means: a verb of this noun.
        """
        noun = writer.pick(self._heads(determiner, verb, True))
        if noun not in self.number_of:
            noun = writer.pick(self._heads(determiner, verb, False))
        follow = follow or ("verb", noun)
        after = writer.pick(self._after_noun(noun, depth, follow))
        if after in PREPOSITIONS:
            return noun, self._noun_phrase(writer, writer.pick(_START), depth=depth + 1, verb="", follow=follow)[1]
        if after != "that":
            return noun, after
        after = writer.pick(self._after_that(noun))
        if after in DETERMINERS:
            self._noun_phrase(writer, after, depth=depth + 1, verb="", follow=None)
            return noun, writer.pick(self._follows(follow))
        return noun, self._noun_phrase(writer, writer.pick(_START), depth=depth + 1, verb=after, follow=follow)[1]

    def _follow(self, follow: tuple[str, str]) -> dict[str, float]:
        kind, noun = follow
        return dict(_AFTER_OBJECT) if kind == "object" else self._verb_weights(noun)

    def _verb_weights(self, noun: str) -> dict[str, float]:
        number = self.number_of[noun]
        return {pair[number]: weight for pair, weight in self._verbs_of[noun].items()}

    def _make_follows(self, follow: tuple[str, str]) -> Choices:
        return Choices(self._follow(follow))

    def _make_heads(self, determiner: str, verb: str, adjective: bool) -> Choices:
        pairs = self._objects_of[verb] if verb else self._nouns
        weights = {}
        for (singular, plural), weight in pairs.items():
            weights[singular] = 0.0 if determiner in PLURAL_ONLY else weight * 0.55
            weights[plural] = 0.0 if determiner in SINGULAR_ONLY else weight * 0.45
        if adjective:
            weights = {**scaled(weights, 1 - _ADJECTIVE), **scaled(self._adjectives, _ADJECTIVE)}
        return Choices(weights)

    def _make_after_noun(self, noun: str, depth: int, follow: tuple[str, str]) -> Choices:
        if depth >= _DEEPEST:
            return Choices(self._follow(follow))
        weights = scaled(self._follow(follow), 1 - _PHRASE - _CLAUSE)
        weights |= scaled(dict.fromkeys(PREPOSITIONS, 1.0), _PHRASE)
        return Choices({**weights, "that": _CLAUSE})

    def _make_after_that(self, noun: str) -> Choices:
        return Choices({**scaled(self._verb_weights(noun), 0.5), **scaled(DETERMINERS, 0.5)})

    def _make_after_verb(self, verb: str) -> Choices:
        return Choices({**scaled(DETERMINERS, 0.6), **scaled(self._adverbs_of[verb], 0.25), ".": 0.15})
