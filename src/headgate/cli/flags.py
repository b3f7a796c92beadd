"""Command-line flags for settings, and the program's name as it was called."""

import argparse
import os
import shutil
import sys
from dataclasses import Field
from pathlib import Path
from typing import Any

from headgate.errors import InputError
from headgate.settings.field import LARGEST


def command() -> str:
    """Return the program as it was called, so that printed commands can be typed again."""
    called = sys.argv[0]
    if Path(called).name == "__main__.py":
        return f"{Path(sys.executable).name} -m headgate"
    installed = shutil.which("headgate")
    if installed and os.path.exists(called) and os.path.samefile(installed, called):
        return "headgate"
    return os.path.relpath(called)


def check_largest(options: argparse.Namespace, *names: str) -> None:
    """Raise InputError if one of the named options is larger than any setting may be."""
    for name in names:
        value = getattr(options, name)
        if value is not None and value > LARGEST:
            raise InputError(f"--{name.replace('_', '-')} must be at most {LARGEST}, got {value}")


SHORT = {"epochs": ["-e"], "seed": ["-s"]}  # short flags of settings
METAVARS: dict[Any, str] = {int: "N", float: "X", str: "NAME", Any: "VALUE"}


def add_setting(group: Any, setting: Field[Any], kind: Any, *, default: str = "", several: bool = False) -> None:
    """Add a flag for a setting of type ``kind``, with its help, choices and default.

    ``default`` rewords the default in the help. The option is absent unless the flag is given, so that defaults have
    one source, the setting. With ``several`` the flag takes any number of values.
    """
    flag, choices = "--" + setting.name.replace("_", "-"), setting.metadata["choices"] or None
    default = default or shown(setting.default)
    options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": f"{setting.metadata['help']} ({default})"}
    if kind is bool:
        options["action"] = argparse.BooleanOptionalAction
    elif kind == tuple[str, ...]:
        options |= {"action": "append", "metavar": "TEXT", "help": f"{setting.metadata['help']} (may be repeated)"}
    elif kind is Any:
        options |= {"type": _number_or_word, "metavar": METAVARS[kind], "nargs": "*" if several else None}
    else:
        parse = _whole_or_auto if kind is int and setting.default == "auto" else kind
        options |= {"type": parse, "choices": choices, "metavar": None if choices else METAVARS[kind]}
    group.add_argument(*SHORT.get(setting.name, ()), flag, **options)


def shown(default: Any) -> str:
    """Format a default for the help.

    >>> shown(True), shown(1), shown(None)
    ('yes', '1', 'none')
    """
    if isinstance(default, bool):
        return "yes" if default else "no"
    return "none" if default is None else str(default)


def _number_or_word(text: str) -> int | float | str:
    """Return the number that a text holds, or else the text: "12" -> 12, "0.5" -> 0.5, "auto" -> "auto"."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _whole_or_auto(text: str) -> int | str:
    """Parse a whole number or "auto"."""
    try:
        return text if text == "auto" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be auto or a whole number, got {text!r}") from None
