"""Standard output and error: encodings, closed streams, tables, colours."""

import codecs
import io
import json
import os
import shutil
import sys
import unicodedata
from collections.abc import Mapping, Sequence
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
        sys.stdout = _StandIn(open(1, "wb", closefd=False), encoding="utf-8")  # noqa: SIM115 - for the whole program
    if sys.stderr is None:
        sys.stderr = _StandIn(open(2, "wb", closefd=False), encoding="utf-8")  # noqa: SIM115 - for the whole program
    codecs.register_error("headgate.escape", _escape)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape", "backslashreplace"):
            stream.reconfigure(errors="headgate.escape")


class _StandIn(io.TextIOWrapper):
    """The null device in the place of a closed stream."""


def is_closed(stream: Any) -> bool:
    """Say whether a standard stream was closed when the program started: what is written to it, nobody gets."""
    return stream is None or isinstance(stream, _StandIn)


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


def tell_error(message: str) -> None:
    """Print what is wrong to standard error."""
    tell(f"{painted('headgate:', 'red') if coloured(sys.stderr) else 'headgate:'} {message}")


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


def shortened(name: str, width: int) -> str:
    """A name in at most ``width`` columns, without its middle where it is long.

    >>> shortened("runs/" + "a" * 40, 12)
    'runs/…aaaaaa'
    """
    if columns(name) <= width:
        return name
    head, tail = "", ""
    while columns(head + name[len(head)]) <= (width - 1) // 2:
        head += name[len(head)]
    while columns(head + name[-len(tail) - 1] + tail) <= width - 1:
        tail = name[-len(tail) - 1] + tail
    return f"{head}…{tail}"


def print_table(rows: Sequence[Sequence[str]], aligned: str, looks: Mapping[str, str] | None = None) -> None:
    """Print rows of cells, the first of them the heading, in columns that are ``aligned`` ("<" or ">" each).

    On a terminal the first column is shortened so that lines fit, the heading is bold, and cells that ``looks`` names
    have its colour.
    """
    widths = [max(columns(row[i]) for row in rows) for i in range(len(aligned))]
    if sys.stdout.isatty():
        excess = sum(widths) + 2 * (len(widths) - 1) - shutil.get_terminal_size().columns
        widths[0] = max(widths[0] - max(excess, 0), min(widths[0], 12))
    colors = coloured(sys.stdout)
    for number, row in enumerate(rows):
        cells = []
        for cell, width, side in zip((shortened(row[0], widths[0]), *row[1:]), widths, aligned, strict=True):
            gap = " " * (width - columns(cell))
            look = "bold" if number == 0 else (looks or {}).get(cell)
            shown = painted(cell, look) if colors and look and cell else cell
            cells.append(gap + shown if side == ">" else shown + gap)
        print("  ".join(cells).rstrip())


def fitted(text: str) -> str:
    """A text as it is; on a terminal with its long lines broken between words, or between Chinese characters."""
    if not sys.stdout.isatty():
        return text
    width, lines = shutil.get_terminal_size().columns, []
    for line in text.split("\n"):
        while columns(line) > width:
            end = 1
            while columns(line[: end + 1]) <= width:
                end += 1
            space = end if line[end] == " " else line.rfind(" ", 0, end)
            wide = columns(line[space + 1 : end]) > end - space - 1
            if space > 0 and not wide:
                end = space
            lines.append(line[:end])
            line = line[end:].removeprefix(" ")
        lines.append(line)
    return "\n".join(lines)


def progress_bar(total: int | None = None, *, unit: str, shown: bool, **options: Any) -> Any:
    """Return a tqdm progress bar on standard output, silent unless ``shown`` and standard output is a terminal."""
    from tqdm import tqdm  # here, because the runtime never shows one

    if total is not None:
        options["bar_format"] = "{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} [{elapsed}, {remaining} left]{postfix}"
    return tqdm(
        total=total, unit=unit, disable=not (shown and sys.stdout.isatty()), file=sys.stdout, dynamic_ncols=True,
        leave=False, **options,
    )  # fmt: skip


def coloured(stream: Any) -> bool:
    """Say whether colours go to a stream: to a terminal, unless NO_COLOR is set; also elsewhere if FORCE_COLOR is."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    old_windows = os.name == "nt" and not os.environ.get("WT_SESSION")
    return bool(stream.isatty()) and os.environ.get("TERM") != "dumb" and not old_windows


def painted(text: str, look: str) -> str:
    """A text as a terminal shows it bold, or in a colour."""
    return f"\x1b[{LOOKS[look]}m{text}\x1b[0m"


LOOKS = {"bold": 1, "red": 31, "green": 32, "yellow": 33, "cyan": 36}  # of ANSI's escape sequences
