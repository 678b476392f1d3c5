"""Stories: who has which thing, who is where, and where therefore a thing is. Harder to track than tales."""

from quantbench.data.world.lexicon import Lexicon
from quantbench.data.world.writer import END, Choices, Writer, scaled

CAST = 4
WITH, AT = "with", "at"
_THINGS = 3
_FEWEST_SENTENCES = 6
_ASK, _END = 0.35, 0.1
_GOES = Choices({"goes": 1.0})
_GOES_OR_GIVES = Choices({"goes": 0.4, "gives": 0.6})
_WITH_OR_AT = Choices({WITH: 0.6, AT: 0.4})


def _even(words: list[str]) -> Choices:
    return Choices(dict.fromkeys(words, 1.0))


class Stories:
    """Four people at four places pass three things around; sentences beginning with Now state what must be inferred."""

    def __init__(self, lexicon: Lexicon) -> None:
        self._names, self._things, self._places = lexicon.first_names, lexicon.objects, lexicon.places

    def write(self, writer: Writer) -> None:
        """Set the scene, then events and inferences until the document ends."""
        place, holder = self._scene(writer)
        places = list(place.values())
        go_on = {**scaled(dict.fromkeys(place, 1.0), 1 - _ASK), "Now": _ASK}
        early, late = Choices(go_on), Choices({**scaled(go_on, 1 - _END), END: _END})
        count = 0
        while (start := writer.pick(early if count < _FEWEST_SENTENCES else late)) != END:
            if start == "Now":
                self._inference(writer, place, holder)
            else:
                self._event(writer, start, places, place, holder)
            writer.say(".")
            count += 1

    def _scene(self, writer: Writer) -> tuple[dict[str, str], dict[str, str]]:
        """Returns (place of each person, holder of each thing)."""
        place: dict[str, str] = {}
        holder: dict[str, str] = {}
        for index in range(CAST):
            name = writer.pick(_even([name for name in self._names if name not in place]))
            writer.say("waits", "at", "the")
            where = writer.pick(_even([where for where in self._places if where not in place.values()]))
            if index < _THINGS:
                writer.say("and", "holds", "the")
                holder[writer.pick(_even([thing for thing in self._things if thing not in holder]))] = name
            writer.say(".")
            place[name] = where
        return place, holder

    @staticmethod
    def _event(writer: Writer, name: str, places: list[str], place: dict[str, str], holder: dict[str, str]) -> None:
        held = [thing for thing, who in holder.items() if who == name]
        if writer.pick(_GOES_OR_GIVES if held else _GOES) == "goes":
            writer.say("to", "the")
            place[name] = writer.pick(_even([where for where in places if where != place[name]]))
        else:
            writer.say("the")
            thing = writer.pick(_even(held))
            writer.say("to")
            holder[thing] = writer.pick(_even([other for other in place if other != name]))

    @staticmethod
    def _inference(writer: Writer, place: dict[str, str], holder: dict[str, str]) -> None:
        writer.say("the")
        thing = writer.pick(_even(list(holder)))
        writer.say("is")
        if writer.pick(_WITH_OR_AT) == WITH:
            writer.say(holder[thing])
        else:
            writer.say("the", place[holder[thing]])
