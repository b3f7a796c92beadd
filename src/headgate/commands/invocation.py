"""What commands share: how this program was called, where a run goes that was given no directory, flags of settings."""

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from headgate.run_directory import is_run


def command() -> str:
    """The program as it was called, so that what it prints can be typed again."""
    called = sys.argv[0]
    if Path(called).name == "__main__.py":
        return f"{Path(sys.executable).name} -m headgate"
    found = shutil.which("headgate")
    if found and os.path.exists(called) and os.path.samefile(found, called):
        return "headgate"
    return os.path.relpath(called)


def default_directory(name: str, *, newest: bool = False) -> Path:
    """runs/NAME, runs/NAME-2, ...: the first that is free, or the newest that is there."""
    path = free = Path("runs") / name
    number = 1
    while is_run(free) or free.is_file():
        path, number = free, number + 1
        free = path.with_name(f"{name}-{number}")
    return path if newest else free


def show(text: str, stream: Any) -> None:
    """Print a line; a closed stream gets nothing."""
    if stream is not None:
        print(printable(text, stream), file=stream, flush=True)


def printable(text: str, stream: Any) -> str:
    """The text with those letters escaped that the encoding of a stream lacks."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding, getattr(stream, "errors", None) or "strict")
    except UnicodeEncodeError:
        return text.encode(encoding, "backslashreplace").decode(encoding)
    return text


def add_setting(group: Any, f: Any, kind: Any) -> None:
    """A flag for a setting; absent unless given, so that its default stays in configuration.py."""
    flag, text = "--" + f.name.replace("_", "-"), f.metadata["help"]
    absent: dict[str, Any] = {"default": argparse.SUPPRESS}
    if kind is bool:
        default = "yes" if f.default else "no"
        group.add_argument(flag, action=argparse.BooleanOptionalAction, help=f"{text} ({default})", **absent)
    elif kind in (int, float, str):
        choices = f.metadata["choices"] or None
        metavar = None if choices else kind.__name__.upper()
        group.add_argument(flag, type=kind, choices=choices, metavar=metavar, help=f"{text} ({f.default})", **absent)
    else:
        group.add_argument(flag, nargs="+", metavar="TEXT", help=text, **absent)
