"""Text output that escapes characters that its stream cannot encode."""

from contextlib import suppress
from typing import Any


class Escaping:
    """A wrapper of a text stream that escapes what it cannot encode, such as ``\\xb1`` for a plus-minus sign.

    All other attributes are those of the stream.

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
        """Return the stream's attribute of that name."""
        return getattr(self._stream, name)


def escape_unencodable(*streams: Any) -> None:
    """Make text streams escape what they cannot encode, as ``sys.stderr`` does by default.

    Args:
        streams: the streams; closed ones, and objects that are not files, are not changed.
    """
    for stream in streams:
        with suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="backslashreplace")
