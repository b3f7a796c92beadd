"""Locks on directories, held by the operating system: they end with the process, however it ends.

The filelock package was considered. It leaves every lock file behind, cannot test a lock without taking it, and does
not record the holder, whom the message of a refused command names.
"""

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
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]


class InUseError(InputError):
    """Another process has locked the directory."""


@contextlib.contextmanager
def locked(folder: Path, *, name: str = "lock", patience: float = 0.1, keep: bool = True) -> Iterator[None]:
    """Context manager: lock ``folder`` by a file in it, which contains the holder's process id and host.

    Wait for another holder for ``patience`` seconds at most; the default suffices if it is only looking (in_use).
    Without ``keep``, remove the file afterwards. Raises InUseError that names the holder, and FileNotFoundError if the
    folder does not exist or is removed meanwhile.
    """
    file, end = folder / name, time.monotonic() + patience
    while True:
        with file.open("a+") as stream:
            if _lock(stream):
                if not _still_there(stream, file):  # its holder has removed it: lock the file that is there now
                    continue
                stream.truncate(0)
                stream.write(f"process {os.getpid()} on {platform.node()}")
                stream.flush()
                try:
                    yield
                finally:
                    if not keep:
                        file.unlink(missing_ok=True)
                return
            if time.monotonic() >= end:
                stream.seek(0)
                holder = stream.read().strip() or "another process"
                raise InUseError(f"{folder} is in use by {holder}: wait for it, stop it, or name another directory")
        time.sleep(0.01)


def in_use(folder: Path, name: str = "lock") -> bool:
    """Return True if a process has locked ``folder`` by its file of that name. Nothing is written."""
    if not (folder / name).exists() or fcntl is None:
        return False
    with (folder / name).open("rb") as file:
        return not _lock(file, shared=True)


def _still_there(file: Any, path: Path) -> bool:
    """Return True if an open file is still the one at that path, and was not removed by the process that held it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _lock(file: Any, *, shared: bool = False) -> bool:
    """Lock a file until it is closed, and return True, or False if another process has locked it."""
    if fcntl is None:
        raise InputError("this operating system has no fcntl locks, which saving needs: use Linux, macOS or WSL")
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
