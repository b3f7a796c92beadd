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
    """Make standard output and error accept any text.

    A closed stream, standard input included, is replaced by the null device: otherwise the next file to be opened would
    get its descriptor, and with it whatever other code prints. Characters that the encoding lacks are escaped, and
    undecodable bytes of file names are written as they are, unless PYTHONIOENCODING chooses another error handler.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor
    if sys.stdout is None:
        sys.stdout = _StandIn(open(1, "wb", closefd=False), encoding="utf-8")  # noqa: SIM115 - for the whole program
    if sys.stderr is None:
        sys.stderr = _StandIn(open(2, "wb", closefd=False), encoding="utf-8")  # noqa: SIM115 - for the whole program
    codecs.register_error("headgate.escape", _escape)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape", "backslashreplace"):
            stream.reconfigure(errors="headgate.escape")


class _StandIn(io.TextIOWrapper):
    """The null device in place of a closed stream."""


def is_closed(stream: Any) -> bool:
    """Return True if a standard stream was closed when the program started, so that nobody reads it."""
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
    """Print JSON; its non-ASCII characters are escaped only if the encoding of standard output lacks them."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=indent)
    print(text)


def tell(message: str) -> None:
    """Print a line to standard error, or discard it if that cannot be written."""
    try:
        print(message, file=sys.stderr, flush=True)
    except OSError:
        discard(sys.stderr)


def tell_error(message: str) -> None:
    """Print an error message to standard error."""
    tell(f"{painted('headgate:', 'red') if coloured(sys.stderr) else 'headgate:'} {message}")


def discard(stream: Any) -> None:
    """Redirect a stream that cannot be written (no reader, no space) to the null device."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def columns(text: str) -> int:
    """Return the width of a text in a terminal: two columns for a Chinese character, none for a combining mark.

    >>> columns("分开"), columns("e\u0301")
    (4, 1)
    """
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def shortened(name: str, width: int) -> str:
    """Return a name in at most ``width`` columns, without its middle if it is longer.

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
    """Print rows of cells, the first row being the heading, in columns ``aligned`` left ("<") or right (">").

    On a terminal the first column is shortened so that lines fit, the heading is bold, and ``looks`` maps the content
    of a cell to its colour.
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
    """Return a text unchanged, or, on a terminal, with long lines broken between words or Chinese characters."""
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
        total=total,
        unit=unit,
        disable=not (shown and sys.stdout.isatty()),
        file=sys.stdout,
        dynamic_ncols=True,
        leave=False,
        **options,
    )


def coloured(stream: Any) -> bool:
    """Return True if a stream gets colours: terminals do, unless NO_COLOR is set; all streams do if FORCE_COLOR is."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    old_windows = os.name == "nt" and not os.environ.get("WT_SESSION")
    return bool(stream.isatty()) and os.environ.get("TERM") != "dumb" and not old_windows


def painted(text: str, look: str) -> str:
    """Return a text with the escape sequences that make it bold or coloured."""
    return f"\x1b[{LOOKS[look]}m{text}\x1b[0m"


LOOKS = {"bold": 1, "red": 31, "green": 32, "yellow": 33, "cyan": 36}  # parameters of ANSI escape sequences
