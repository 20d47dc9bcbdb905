"""Output that does not fail because of a character that its stream cannot encode."""

from contextlib import suppress
from typing import Any


class Escaping:
    """A text stream that writes what it cannot encode as Python's escapes, such as ``\\xb1`` for a plus-minus sign.

    Everything else is that of the stream.

    Args:
        stream: the stream, for instance ``sys.stdout``.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text; return the number of characters written."""
        encoding = getattr(self._stream, "encoding", None)
        if encoding is not None:
            text = text.encode(encoding, "backslashreplace").decode(encoding)
        return int(self._stream.write(text))

    def __getattr__(self, name: str) -> Any:
        """Return what the stream has of that name."""
        return getattr(self._stream, name)


def escape_unencodable(*streams: Any) -> None:
    """Have text streams write what they cannot encode as Python's escapes, as ``sys.stderr`` does by itself.

    Args:
        streams: the streams; those that are closed, or that are no files, stay as they are.
    """
    for stream in streams:
        with suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="backslashreplace")
