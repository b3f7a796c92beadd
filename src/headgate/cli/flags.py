"""Flags of settings, and the name of the program as it was called."""

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from headgate.errors import InputError
from headgate.settings.field import LARGEST


def command() -> str:
    """The program as it was called, so that what it prints can be typed again."""
    called = sys.argv[0]
    if Path(called).name == "__main__.py":
        return f"{Path(sys.executable).name} -m headgate"
    found = shutil.which("headgate")
    if found and os.path.exists(called) and os.path.samefile(found, called):
        return "headgate"
    return os.path.relpath(called)


def check_largest(options: argparse.Namespace, *names: str) -> None:
    """InputError for a number among the options that is larger than any setting may be."""
    for name in names:
        value = getattr(options, name)
        if value is not None and value > LARGEST:
            raise InputError(f"--{name.replace('_', '-')} must be at most {LARGEST}, got {value}")


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


SHORT = {"epochs": ["-e"], "seed": ["-s"]}  # flags of settings
METAVARS: dict[type, str] = {int: "N", float: "X", str: "NAME"}


def add_setting(group: Any, f: Any, kind: Any) -> None:
    """A flag for a setting; absent unless given, so that its default stays in configuration.py."""
    flag, text = "--" + f.name.replace("_", "-"), f.metadata["help"]
    flags = [*SHORT.get(f.name, ()), flag]
    absent: dict[str, Any] = {"default": argparse.SUPPRESS}
    if kind is bool:
        default = "yes" if f.default else "no"
        group.add_argument(flag, action=argparse.BooleanOptionalAction, help=f"{text} ({default})", **absent)
    elif kind in (int, float, str):
        choices = f.metadata["choices"] or None
        metavar = None if choices else METAVARS[kind]
        group.add_argument(*flags, type=kind, choices=choices, metavar=metavar, help=f"{text} ({f.default})", **absent)
    else:
        group.add_argument(flag, action="append", metavar="TEXT", help=f"{text} (may be repeated)", **absent)
