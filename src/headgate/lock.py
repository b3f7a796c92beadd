"""A directory that one process at a time works in. The lock is the operating system's and goes with the process."""

import contextlib
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from headgate.errors import InputError

try:
    import fcntl
except ModuleNotFoundError:  # no such locks there
    fcntl = None  # type: ignore[assignment]


class InUseError(InputError):
    """Another process works in the directory."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Context manager: keep everybody else from locking ``folder``. Raises InUseError that names the process which has.

    The lock is on the file ``lock`` in it, which says who holds it.
    """
    with contextlib.ExitStack() as stack:
        for attempt in range(3):  # somebody may just be looking (in_use)
            file = stack.enter_context((folder / "lock").open("a+"))
            if _lock(file) and _still_there(file, folder / "lock"):
                break
            time.sleep(0.05)
            if attempt == 2:
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise InUseError(
                    f"{folder} is in use by {holder}: wait for it, stop it, or name another directory with --out"
                )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        yield


def in_use(folder: Path) -> bool:
    """Say whether a process works in ``folder`` now. Nothing is written."""
    if not (folder / "lock").exists():
        return False
    with (folder / "lock").open("rb") as file:
        return not _lock(file, shared=True)


def _still_there(file: Any, path: Path) -> bool:
    """Say whether an open file is the one of that name: who gave up a new directory has removed its lock."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _lock(file: Any, *, shared: bool = False) -> bool:
    """Lock a file until it is closed, if nobody else has; whether that could be done."""
    if fcntl is not None:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
