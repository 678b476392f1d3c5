"""Tales that must be tracked: who is where, and who has which thing. Their sentences put the verb last."""

from quantbench.data.world.lexicon import Lexicon
from quantbench.data.world.writer import END, Choices, Writer, scaled

CAST, THINGS = 4, 3
_NAMES = 40
_FEWEST_SENTENCES = 8
_GO, _GET, _ASK, _END = 0.25, 0.25, 0.5, 0.06


def _even(words: list[str]) -> dict[str, float]:
    return dict.fromkeys(words, 1.0)


class Tales:
    """Four people move between four places and three things change hands.

    Sentences beginning with Now state what must be inferred: the place a person last went to, or the person who got a
    thing last.
    """

    def __init__(self, lexicon: Lexicon) -> None:
        self._names, self._things, self._places = lexicon.first_names[:_NAMES], lexicon.objects, lexicon.places

    def write(self, writer: Writer) -> None:
        """Set the scene, then events and inferences until the document ends."""
        place, holder = self._scene(writer)
        places = list(place.values())
        go_on = {**scaled(_even(list(place)), _GO), **scaled(_even(list(holder)), _GET), "Now": _ASK}
        early, late = Choices(go_on), Choices({**scaled(go_on, 1 - _END), END: _END})
        asked = Choices(_even([*place, *holder]))
        count = 0
        while (start := writer.pick(early if count < _FEWEST_SENTENCES else late)) != END:
            if start == "Now":
                subject = writer.pick(asked)
                writer.say(*((place[subject], "waits") if subject in place else (holder[subject], "holds")), ".")
            elif start in place:
                place[start] = writer.pick(Choices(_even([where for where in places if where != place[start]])))
                writer.say("goes", ".")
            else:
                holder[start] = writer.pick(Choices(_even([name for name in place if name != holder[start]])))
                writer.say("gets", ".")
            count += 1

    def _scene(self, writer: Writer) -> tuple[dict[str, str], dict[str, str]]:
        """Returns (place of each person, holder of each thing)."""
        place: dict[str, str] = {}
        holder: dict[str, str] = {}
        for _ in range(CAST):
            name = writer.pick(Choices(_even([name for name in self._names if name not in place])))
            taken = place.values()
            place[name] = writer.pick(Choices(_even([where for where in self._places if where not in taken])))
            writer.say("waits", ".")
        for _ in range(THINGS):
            thing = writer.pick(Choices(_even([thing for thing in self._things if thing not in holder])))
            holder[thing] = writer.pick(Choices(_even(list(place))))
            writer.say("holds", ".")
        return place, holder
