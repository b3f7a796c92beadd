"""One process at a time works in a directory, and others are told which."""

import os
import threading
import time
from pathlib import Path

import pytest

from headgate.errors import InputError
from headgate.storage import lock
from headgate.storage.lock import InUseError, in_use, locked


def test_a_refusal_names_the_holder(tmp_path: Path) -> None:
    with (
        locked(tmp_path),
        pytest.raises(InUseError, match=rf"{tmp_path} is in use by process {os.getpid()} on .+: wait for it, stop it"),
        locked(tmp_path, patience=0.0),
    ):
        pass
    assert (tmp_path / "lock").exists()


def test_a_lock_waits_for_its_holder(tmp_path: Path) -> None:
    entered, ended = threading.Event(), []

    def hold() -> None:
        with locked(tmp_path, name=".lock", keep=False):
            entered.set()
            time.sleep(0.3)
            ended.append(True)

    holder = threading.Thread(target=hold)
    holder.start()
    entered.wait()
    with locked(tmp_path, name=".lock", patience=60.0, keep=False):
        assert ended == [True]
    holder.join()
    assert not (tmp_path / ".lock").exists()


def test_looking_neither_locks_nor_writes(tmp_path: Path) -> None:
    assert not in_use(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path):
        assert in_use(tmp_path)
    assert not in_use(tmp_path)


def test_a_missing_directory_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), locked(tmp_path / "gone"):
        pass


def test_without_locks_nothing_pretends_to_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "fcntl", None)
    (tmp_path / "lock").touch()
    assert not in_use(tmp_path)
    with (
        pytest.raises(InputError, match="no fcntl locks, which saving needs: use Linux, macOS or WSL"),
        locked(tmp_path),
    ):
        pass
