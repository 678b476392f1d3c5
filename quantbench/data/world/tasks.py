"""Multiple-choice tasks about the world, written as lm-eval task files."""

import json
import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from random import Random
from tempfile import NamedTemporaryFile
from typing import TypedDict

from quantbench.data.world.generator import World, default_world
from quantbench.data.world.lexicon import ATTRIBUTES, LARGEST_NUMBER
from quantbench.data.world.tales import CAST, THINGS
from quantbench.data.world.writer import Writer, random_chooser

_SPLIT = "tasks"
_CHOICES = 4
_FARTHEST_WRONG_TOTAL = 10


class Item(TypedDict):
    """One question: which of ``choices`` continues ``context``; ``answer`` is its index."""

    context: str
    choices: list[str]
    answer: int


def _item(random: Random, context: str, right: str, wrong: list[str]) -> Item:
    choices = [right, *wrong]
    random.shuffle(choices)
    return {"context": context, "choices": choices, "answer": choices.index(right)}


def fact_items(world: World, random: Random) -> Iterator[Item]:
    """An attribute of a person, rare people as often as well-known ones; wrong values belong to their namesakes."""
    facts = world.register.facts
    namesakes: dict[str, list[tuple[str, str]]] = {}
    for person in facts:
        for name in person:
            namesakes.setdefault(name, []).append(person)
    while True:
        person, verb = random.choice(world.register.people), random.choice(list(ATTRIBUTES))
        right = facts[person][verb]
        wrong: list[str] = []
        while len(wrong) < _CHOICES - 1:
            value = facts[random.choice(namesakes[random.choice(person)])][verb]
            if value != right and value not in wrong:
                wrong.append(value)
        yield _item(random, f"Register : {' '.join(person)} {verb}", right, wrong)


def agreement_items(world: World, random: Random) -> Iterator[Item]:
    """The verb of a subject whose last noun has the other number than its head."""
    forms = {form: pair for pair in world.lexicon.verbs for form in pair}
    number_of = world.grammar.number_of
    while True:
        writer = Writer(random_chooser(random))
        head, verb = world.grammar.subject(writer)
        nearest = next(word for word in reversed(writer.words) if word in number_of)
        if number_of[nearest] != number_of[head]:
            context = " ".join(["Essay", ":", *writer.words[:-1]])
            yield _item(random, context, verb, [form for form in forms[verb] if form != verb])


def tracking_items(world: World, random: Random) -> Iterator[Item]:
    """Where a person is or who has a thing, after events that changed it."""
    for document in world.documents(_SPLIT, kind="Tale"):
        words = list(document.words)
        scene = words[2 : 2 + 4 * (CAST + THINGS)]
        was = dict(zip(scene[::4], scene[1::4], strict=True))
        people, places = list(was)[:CAST], list(was.values())[:CAST]
        asked = {words[i + 1]: i + 2 for i, word in enumerate(words) if word == "Now"}
        changed = [(who, end) for who, end in asked.items() if words[end] != was[who]]
        if changed:
            who, end = random.choice(changed)
            among = places if who in people else people
            yield _item(random, " ".join(words[:end]), words[end], [word for word in among if word != words[end]])


def arithmetic_items(world: World, random: Random) -> Iterator[Item]:
    """The next total of a ledger; wrong totals are at most ten away."""
    for document in world.documents(_SPLIT, kind="Ledger"):
        words = document.words[: document.words.index(".")]
        end = random.choice([i for i, word in enumerate(words) if word == "is"]) + 1
        right = int(words[end])
        near = range(max(0, right - _FARTHEST_WRONG_TOTAL), min(LARGEST_NUMBER, right + _FARTHEST_WRONG_TOTAL) + 1)
        wrong = random.sample([total for total in near if total != right], _CHOICES - 1)
        yield _item(random, " ".join(words[:end]), str(right), [str(total) for total in wrong])


TASKS: dict[str, tuple[Callable[[World, Random], Iterator[Item]], int]] = {
    "world_facts": (fact_items, 500),
    "world_agreement": (agreement_items, 400),
    "world_tracking": (tracking_items, 300),
    "world_arithmetic": (arithmetic_items, 400),
}
"""Task -> (its endless items, how many of them it has)."""


def items(task: str, world: World | None = None) -> list[Item]:
    """All questions of ``task``, always the same ones, from seeds that no training text uses."""
    world = world or default_world()
    make, count = TASKS[task]
    return list(islice(make(world, Random(f"{world.seed}/{_SPLIT}/{task}")), count))


def write_tasks(folder: Path) -> list[str]:
    """Write a yaml and a jsonl file per task into ``folder``, ready for lm-eval's ``include_path``; returns the names.

    Several processes may do so at once: files appear whole, and one that is already right is left alone.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for task in TASKS:
        data = folder / f"{task}.jsonl"
        _write(data, "".join(json.dumps(item) + "\n" for item in items(task)))
        _write(folder / f"{task}.yaml", _definition(task, data))
    return list(TASKS)


def _definition(task: str, data: Path) -> str:
    # JSON is YAML, and quotes any path correctly.
    return json.dumps(
        {
            "task": task,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "{{context}}",
            "doc_to_choice": "choices",
            "doc_to_target": "answer",
            "target_delimiter": " ",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
            "metadata": {"version": 1.0},
        },
        indent=2,
    )


def _write(path: Path, text: str) -> None:
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    with NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False, encoding="utf-8") as file:
        file.write(text)
    os.replace(file.name, path)
