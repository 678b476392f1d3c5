import math
from collections import Counter

import pytest
from scipy.stats import chisquare

from quantbench.data.world.generator import KIND_WEIGHTS, World, default_world
from quantbench.data.world.writer import END, Choices
from tests.data.world.helpers import ARITHMETIC, beginnings, replay_ledger, replay_story, replay_tale, sentences


def test_same_seed_gives_same_documents_and_another_seed_another_world():
    texts = [document.text for document in World(3).take("test", 20)]
    assert texts == [document.text for document in World(3).take("test", 20)]
    assert not set(texts) & {document.text for document in World(4).take("test", 20)}


def test_every_kind_of_document_occurs_with_its_share():
    counts = Counter(document.words[0] for document in default_world().take("validation", 1500))
    observed = [counts[kind] for kind in KIND_WEIGHTS]
    assert chisquare(observed, [1500 * weight for weight in KIND_WEIGHTS.values()]).pvalue > 1e-4


@pytest.mark.parametrize(("kind", "choices"), [("Register", 2), ("Essay", 2), ("Story", 2), ("Ledger", 2), ("Tale", 2)])
def test_probabilities_of_all_beginnings_sum_to_one_and_no_text_has_two_histories(kind, choices):
    write = default_world()._write[kind]
    written = list(beginnings(write, choices))
    assert len(written) > 100
    assert len({" ".join(writer.words) for writer in written}) == len(written)
    assert math.fsum(math.exp(-sum(writer.nll)) for writer in written) == pytest.approx(1, abs=1e-9)


def test_drawn_words_have_the_frequencies_that_the_floor_claims():
    documents = default_world().take("frequency", 3000, kind="Register")
    counts = Counter(document.words[2] for document in documents)
    claimed = {document.words[2]: math.exp(-document.nll[2]) for document in documents}
    common = [name for name in counts if 3000 * claimed[name] >= 5]
    observed = [counts[name] for name in common]
    expected = [3000 * claimed[name] for name in common]
    rest = 3000 - sum(observed)
    assert max(expected) > 1.3 * min(expected)
    assert chisquare([*observed, rest], [*expected, 3000 - sum(expected)]).pvalue > 1e-4


def test_floor_of_ledgers_equals_a_likelihood_computed_from_the_rules():
    def operand_mass(total, name):
        allowed = range(2, 6) if name == "times" else range(1, 31)
        results = {n: ARITHMETIC[name](total, n) for n in allowed}
        return {n: 1 / (n + 5) for n, result in results.items() if 0 <= result <= 99}

    share = {"plus": 0.45, "minus": 0.45, "times": 0.1}
    for document in default_world().take("rules", 50, kind="Ledger"):
        nll = 0.0
        for index, line in enumerate(sentences(document)):
            nll -= math.log(1 / 60 * (0.8 if index >= 3 else 1.0))
            total = int(line.split()[0])
            steps = line.split(" , ")
            for step in steps:
                name, operand, _, result = step.split()[-4:]
                possible = {op: operand_mass(total, op) for op in share}
                nll -= math.log(share[name] / sum(share[op] for op in share if possible[op]))
                nll -= math.log(possible[name][int(operand)] / math.fsum(possible[name].values()))
                total = int(result)
            nll -= (len(steps) - 1) * math.log(0.75) + math.log(0.25)
        assert sum(document.nll) == pytest.approx(nll)
        assert document.end_nll == pytest.approx(-math.log(0.2))


def test_every_word_has_a_log_probability_and_impossible_words_are_never_offered():
    for document in default_world().take("test", 100):
        assert len(document.words) == len(document.nll)
        assert min(document.nll) >= 0
        assert END not in document.words
    assert Choices({"a": 3.0, "b": 0.0, "c": 1.0}).words == ["a", "c"]


def test_registers_state_the_facts_of_the_world():
    register = default_world().register
    stated = 0
    for document in default_world().take("test", 80, kind="Register"):
        for line in sentences(document):
            first, last, *rest = line.split()
            for statement in " ".join(rest).split(" , "):
                verb, value = statement.split()
                assert register.facts[first, last][verb] == value
                stated += 1
    assert stated > 1000


def test_common_people_are_mentioned_more_often_than_rare_ones():
    people = default_world().register.people
    rank = {person: index for index, person in enumerate(people)}
    seen = [rank[tuple(line.split()[:2])] for document in default_world().take("test", 400, kind="Register")
            for line in sentences(document)]  # fmt: skip
    half = len(people) // 2
    assert sum(r < half for r in seen) > 1.2 * sum(r >= half for r in seen) > 0


@pytest.mark.parametrize(("kind", "replay"), [("Story", replay_story), ("Tale", replay_tale)])
def test_stories_and_tales_conclude_what_follows_from_their_events(kind, replay):
    conclusions = [pair for document in default_world().take("test", 80, kind=kind)
                   for pair in replay(sentences(document))]  # fmt: skip
    assert len(conclusions) > 200
    assert all(told == true for told, true in conclusions)


def test_ledgers_add_up():
    steps = [pair for document in default_world().take("test", 80, kind="Ledger")
             for line in sentences(document) for pair in replay_ledger(line)]  # fmt: skip
    assert len(steps) > 500
    assert all(told == true and 0 <= true <= 99 for told, true in steps)


def test_essay_sentences_have_one_verb_per_noun_phrase_with_a_predicate():
    lexicon = default_world().lexicon
    nouns = {form for pair in lexicon.nouns for form in pair}
    verbs = {form for pair in lexicon.verbs for form in pair}
    for document in default_world().take("test", 80, kind="Essay"):
        for line in sentences(document):
            words = line.split()
            clauses = 1 + words.count("that") + words.count("and")
            assert sum(word in verbs for word in words) == clauses
            assert sum(word in nouns for word in words) >= clauses - words.count("and")
