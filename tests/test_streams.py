"""Output on streams that cannot encode all of it."""

import io
import sys

import pytest

from gtn_lightning.streams import Escaping, escape_unencodable


def ascii_stream() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")


def written(stream: io.TextIOWrapper) -> bytes:
    stream.flush()
    content: bytes = stream.buffer.getvalue()  # type: ignore[attr-defined]
    return content


def test_what_cannot_be_encoded_is_escaped() -> None:
    stream = ascii_stream()
    print("90 ± 1 %", "\ud800", file=Escaping(stream))
    assert written(stream) == rb"90 \xb1 1 % \ud800" + b"\n"


def test_a_stream_without_an_encoding_takes_everything() -> None:
    stream = io.StringIO()
    assert Escaping(stream).write("±") == 1
    assert stream.getvalue() == "±"
    assert Escaping(stream).isatty() is False


def test_a_process_escapes_on_its_own_streams() -> None:
    stream = ascii_stream()
    escape_unencodable(stream)
    print("±", file=stream)
    assert written(stream) == rb"\xb1" + b"\n"


@pytest.mark.parametrize("stream", [None, io.StringIO(), "closed"])
def test_other_streams_are_left_alone(stream: object) -> None:
    if stream == "closed":
        stream = ascii_stream()
        stream.close()
    escape_unencodable(stream, sys.stderr)
