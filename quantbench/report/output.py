"""Writing text to a stream whose encoding may not have every character."""

from typing import TextIO


def emit(text: str, file: TextIO) -> None:
    """Write ``text``; what the stream's encoding lacks becomes ``?`` instead of an exception."""
    encoding = file.encoding or "utf-8"
    file.write(text.encode(encoding, "replace").decode(encoding))


def is_unicode(file: TextIO) -> bool:
    """Whether the stream can show box-drawing and mathematical characters."""
    return (file.encoding or "utf-8").lower().startswith("utf")
