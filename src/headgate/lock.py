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


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within it, nobody else can lock ``folder``; InputError that names the process which does.

    The lock is on the file ``lock`` in it, which says who holds it.
    """
    with (folder / "lock").open("a+") as file:
        for attempt in range(3):  # somebody may just be looking (in_use)
            if _lock(file):
                break
            time.sleep(0.05)
            if attempt == 2:
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise InputError(
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
                if not _named(stream, file):  # its holder has removed it: lock the one that is there now
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


def _named(stream: Any, file: Path) -> bool:
    """Whether an open file still has its name."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), file.stat())
    except FileNotFoundError:
        return False


def in_use(folder: Path, name: str = "lock") -> bool:
    """Whether a process works in ``folder`` now, by its file of that name."""
    if not (folder / name).exists():
        return False
    with (folder / name).open("a") as file:
        return not _lock(file)


def _lock(file: Any) -> bool:
    """Lock a file until it is closed, if nobody else has; whether that could be done."""
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
