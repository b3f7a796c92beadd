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


@contextlib.contextmanager
def alone(folder: Path, *, patience: float) -> Iterator[None]:
    """Lock ``folder`` for a block, after waiting for its holder for ``patience`` seconds at most.

    The lock is on the file ``.lock`` in it, which is there only as long. Raises InputError that names the process
    which holds it, and FileNotFoundError if the folder goes.
    """
    if fcntl is None:
        yield
        return
    file, end = folder / ".lock", time.monotonic() + patience
    while True:
        with file.open("a+") as stream:
            if _lock(stream):
                if not _still_there(stream, file):  # its holder has removed it: lock the one that is there now
                    continue
                stream.truncate(0)
                stream.write(f"process {os.getpid()} on {platform.node()}")
                stream.flush()
                try:
                    yield
                finally:
                    file.unlink(missing_ok=True)
                return
            if time.monotonic() >= end:
                stream.seek(0)
                holder = stream.read().strip() or "another process"
                raise InputError(f"{folder} is in use by {holder}: wait for it, stop it, or name another directory")
        time.sleep(0.01)


def in_use(folder: Path, name: str = "lock") -> bool:
    """Say whether a process works in ``folder`` now, by its file of that name. Nothing is written."""
    if not (folder / name).exists():
        return False
    with (folder / name).open("rb") as file:
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
