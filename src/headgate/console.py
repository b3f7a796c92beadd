"""Standard output and error: closed ones replaced, what their encoding cannot hold escaped, readers that went away."""

import codecs
import io
import json
import os
import sys
import unicodedata
from typing import Any


def open_streams() -> None:
    """Make standard output and error take any text.

    A closed one is replaced by the null device, as is closed standard input: the next file to be opened would get its
    descriptor, and with it what other code prints. A character that the encoding lacks is escaped; a byte of a file's
    name that is not text comes out as that byte. Where the user chose what happens to such characters
    (PYTHONIOENCODING), that stays.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - it is for the whole program
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - it is for the whole program
    codecs.register_error("headgate.escape", _escape)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape", "backslashreplace"):
            stream.reconfigure(errors="headgate.escape")


def _escape(error: UnicodeError) -> tuple[bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    escaped = [
        bytes([ord(c) - 0xDC00]) if "\udc80" <= c <= "\udcff" else c.encode("ascii", "backslashreplace")
        for c in error.object[error.start : error.end]
    ]
    return b"".join(escaped), error.end


def print_json(value: Any, *, indent: int | None = None) -> None:
    """Print JSON: readable where the encoding of standard output holds it, else with the escapes of JSON."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=indent)
    print(text)


def tell(message: str) -> None:
    """Print a line to standard error, if anybody can still read it."""
    try:
        print(message, file=sys.stderr, flush=True)
    except OSError:
        discard(sys.stderr)


def discard(stream: Any) -> None:
    """Send what is written to a stream from now on to the null device: nobody reads it, or there is no room for it."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def columns(text: str) -> int:
    """The columns that a text takes in a terminal: two for a Chinese character, none for a combining mark.

    >>> columns("分开"), columns("e\u0301")
    (4, 1)
    """
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def padded(text: str, width: int) -> str:
    """A text with spaces behind it, so that it takes ``width`` columns of a terminal.

    >>> padded("分开", 6) + "|"
    '分开  |'
    """
    return text + " " * (width - columns(text))
