"""The exceptions whose message is all the user needs to see, and how it is said."""

import sys
import traceback


class InputError(ValueError):
    """Wrong input, described in one line: what was wrong and what is allowed. The command exits with code 2."""


class QuantizationError(RuntimeError):
    """A run that cannot go on (NaN in the weights, a Hessian beyond repair), in one line. Exits with code 1."""


class JobFailedError(Exception):
    """A job of a sweep failed and has said why; carries the exit code through any launcher."""


def exit_code(error: Exception) -> int | None:
    """2 for wrong input, 1 for a run that cannot go on, None for anything else: a bug, whose traceback should show."""
    if isinstance(error, InputError):
        return 2
    return 1 if isinstance(error, QuantizationError | MemoryError) else None


def forget_frames(error: BaseException) -> None:
    """Free what the frames of its traceback hold, and those of its causes; where it came from still shows."""
    found: BaseException | None = error
    while found is not None:
        traceback.clear_frames(found.__traceback__)
        found = found.__cause__ or found.__context__


def say(error: Exception) -> None:
    """The one line about an error, on stderr."""
    message = str(error) or ("out of memory" if isinstance(error, MemoryError) else type(error).__name__)
    print(f"error: {message}", file=sys.stderr)
