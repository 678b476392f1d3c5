"""SIGTERM as an exception, so that a job that is told to stop cleans up like one that ends."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

EXIT_CODE = 128 + signal.SIGTERM


class Terminated(BaseException):
    """The process was told to stop. Not an Exception: nothing that handles errors may swallow it."""


@contextmanager
def terminable() -> Iterator[None]:
    """Raise Terminated on the first SIGTERM and ignore further ones, where nobody else handles the signal."""
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    try:
        signal.signal(signal.SIGTERM, _terminate)
    except ValueError:  # not the main thread, which alone may handle signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not stop the cleaning up; SIGKILL follows anyway
    raise Terminated
