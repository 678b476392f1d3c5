"""How long the rest of a sweep will take, from the runs that are done."""

import time
from collections.abc import Callable, Sequence


class TimeLeft:
    """An estimate that gets better as runs finish.

    The first run of a group comes with loading and with the walk for all of the group; every other one costs its
    evaluation. So a group's pace is that of its runs after the first, and a later group takes, for each run, what the
    groups so far do.
    """

    def __init__(self, sizes: Sequence[int], *, clock: Callable[[], float] = time.monotonic) -> None:
        """sizes: how many runs each group has, in order."""
        self._sizes, self._clock, self._start = sizes, clock, clock()
        self._group, self._done, self._first = 0, 0, 0.0

    def finished(self, group: int) -> float | None:
        """A run of that group is done; returns the seconds that the others will take, None while nothing is known."""
        now, size = self._clock(), self._sizes[group]
        if group != self._group or not self._done:
            self._group, self._done, self._first = group, 0, now
        self._done += 1
        here = size - self._done
        if here and self._done == 1:
            return None
        rest = here * (now - self._first) / (self._done - 1) if here else 0.0
        per_run = (now - self._start + rest) / sum(self._sizes[: group + 1])
        return rest + per_run * sum(self._sizes[group + 1 :])
