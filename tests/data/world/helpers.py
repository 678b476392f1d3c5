"""Readers of the world's language that know its rules from its documentation only."""

import operator
from collections.abc import Iterator

from quantbench.data.world.writer import Choices, Document, Writer

ARITHMETIC = {"plus": operator.add, "minus": operator.sub, "times": operator.mul}


class _Cut(Exception):
    """The writer asked for one choice more than wanted."""


def beginnings(write, choices: int) -> Iterator[Writer]:
    """Every way the first ``choices`` picks of ``write(writer)`` can go, as writers stopped there."""
    pending: list[list[int]] = [[]]
    while pending:
        script = pending.pop()
        position, widths = 0, []

        def choose(options: Choices, script=script, widths=widths) -> int:
            nonlocal position
            if position == len(script):
                widths.append(len(options.words))
                raise _Cut
            position += 1
            return script[position - 1]

        writer = Writer(choose)
        try:
            write(writer)
        except _Cut:
            if len(script) < choices:
                pending.extend([*script, index] for index in range(widths[0]))
                continue
        yield writer


def sentences(document: Document) -> list[str]:
    """The sentences after the kind and its colon, without their full stops."""
    assert document.words[-1] == "."
    return document.text.split(" : ", 1)[1].removesuffix(" .").split(" . ")


def replay_story(lines: list[str]) -> Iterator[tuple[str, str]]:
    """(what the story says, what follows from its events) for every sentence that begins with Now."""
    place, holder = {}, {}
    for line in lines:
        words = line.split()
        if words[0] == "Now":
            told = words[-1]
            yield told, holder[words[2]] if words[4] == "with" else place[holder[words[2]]]
        elif words[1] == "waits":
            place[words[0]] = words[4]
            if "holds" in words:
                holder[words[-1]] = words[0]
        elif words[1] == "goes":
            assert place[words[0]] != words[-1]
            place[words[0]] = words[-1]
        else:
            assert holder[words[3]] == words[0] != words[-1]
            holder[words[3]] = words[-1]


def replay_tale(lines: list[str]) -> Iterator[tuple[str, str]]:
    """(what the tale says, what follows from its events) for every sentence that begins with Now."""
    last = {}
    for line in lines:
        words = line.split()
        if words[0] == "Now":
            yield words[2], last[words[1]]
        else:
            assert (words[1] == last.get(words[0])) <= (words[2] in ("waits", "holds"))
            last[words[0]] = words[1]


def replay_ledger(line: str) -> Iterator[tuple[int, int]]:
    """(stated total, computed total) for every step of one running total."""
    total = int(line.split()[0])
    for step in line.split(" , "):
        words = step.split()[-4:]
        total = ARITHMETIC[words[0]](total, int(words[1]))
        yield int(words[3]), total
