"""What commands share: how this program was called, which run is meant, where a new one goes, flags of settings."""

import argparse
import os
import shutil
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from headgate.console import tell
from headgate.errors import InputError, similar
from headgate.runs.run_directory import is_run
from headgate.settings.field import LARGEST
from headgate.storage.files import estimator_in

RUNS = Path("runs")
PRETRAINED = Path(__file__).parents[1] / "runs" / "pretrained"  # run directories that come with the package


def command() -> str:
    """The program as it was called, so that what it prints can be typed again."""
    called = sys.argv[0]
    if Path(called).name == "__main__.py":
        return f"{Path(sys.executable).name} -m headgate"
    found = shutil.which("headgate")
    if found and os.path.exists(called) and os.path.samefile(found, called):
        return "headgate"
    return os.path.relpath(called)


def default_directory(name: str, *, newest: bool = False, taken: Collection[Path] = ()) -> Path:
    """runs/NAME, runs/NAME-2, ...: the first that is free and not ``taken``, or the newest that is there."""
    path = free = RUNS / name
    number = 1
    while is_run(free) or free.is_file() or free in taken:
        path, number = free, number + 1
        free = path.with_name(f"{name}-{number}")
    return path if newest else free


def find_run(name: str | None) -> Path:
    """The run that an argument of a command means: that path, else runs/NAME, else a model that comes with headgate.

    Without an argument, the newest run under runs/, which is said on standard error. InputError where there is none.
    """
    if name is None:
        newest = _newest()
        tell(f"the newest run: {newest}")
        return newest
    for path in (Path(name), RUNS / name, PRETRAINED / name):
        if is_run(path):
            return path
    if Path(name).exists():
        return Path(name)  # to be told what is wrong with it
    known = [path.name for folder in (RUNS, PRETRAINED) for path in _runs_in(folder)]
    close = similar(name, known)
    hint = f"did you mean {' or '.join(close)}?" if close else "'headgate runs' lists those under runs/"
    raise InputError(f"there is no run {name}: {hint}")


def _newest() -> Path:
    """The run under runs/ whose weights were written last."""
    trained = {
        path: (path / "model.safetensors").stat().st_mtime
        for path in _runs_in(RUNS)
        if (path / "model.safetensors").exists() and not estimator_in(path)
    }
    if not trained:
        packaged = ", ".join(path.name for path in _runs_in(PRETRAINED))
        raise InputError(
            "there is no trained run under runs/: train one (headgate train), or name one"
            + (f" that comes with headgate: {packaged}" if packaged else "")
        )
    return max(trained, key=lambda path: trained[path])


def _runs_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if is_run(path)) if folder.is_dir() else []


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
