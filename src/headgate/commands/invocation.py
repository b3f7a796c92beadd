"""How this program was called, and where a run goes that was given no directory."""

import os
import shutil
import sys
from pathlib import Path

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
