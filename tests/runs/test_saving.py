"""Replacing a saved estimator: concurrent savers, kills at any step, mount points, links, consistent readers."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headgate.errors import InputError
from headgate.runs import estimator_directory
from headgate.storage import files
from tests.conftest import ROOT

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and flock")


def save(path: Path, version: int, *, overwrite: bool = True, **more: bytes) -> None:
    """Save parts that all contain the version; version 2 adds one file and lacks another of version 1."""
    named = {"data.json": b'{"version": %d}' % version, f"only-{version}.txt": b"extra"}
    estimator_directory.write(
        path, "GRURegressor", {"hidden_size": version}, {"version": version}, {"x": np.full(1000 + version, version)},
        overwrite=overwrite, more={**named, **more},
    )  # fmt: skip


def version_of(path: Path) -> int:
    """Return the version, and assert that all parts have it."""
    result = estimator_directory.read(path, "GRURegressor")
    version = result.facts["version"]
    assert result.parameters["hidden_size"] == version
    assert result.arrays["x"].tolist() == [version] * (1000 + version)
    return int(version)


def names(path: Path) -> list[str]:
    return sorted(p.name for p in path.iterdir())


def script(text: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run code in a process without torch, because it forks."""
    code = "from tests.runs.test_saving import *\n" + text
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)


@POSIX
def test_concurrent_savers_and_a_reader(tmp_path: Path) -> None:
    done = script(
        """
path = Path(sys.argv[1])
save(path, 1)
children = []
for child in range(4):
    if not (process := os.fork()):
        for turn in range(25):
            save(path, 10 * child + turn % 7 + 1)
        os._exit(0)
    children.append(process)
read, failed = 0, 0
while children:
    version_of(path)
    read += 1
    process, status = os.waitpid(-1, os.WNOHANG)
    if process:
        children.remove(process)
        failed += status != 0
print(read > 4, failed, version_of(path) in range(1, 40))
""",
        tmp_path / "model",
    )
    assert done.stdout == "True 0 True\n", done.stdout + done.stderr
    assert len(names(tmp_path / "model")) == 4, names(tmp_path / "model")
    assert names(tmp_path) == ["model"]


@POSIX
def test_of_concurrent_first_saves_one_wins(tmp_path: Path) -> None:
    done = script(
        """
path = Path(sys.argv[1])
children = []
for child in range(6):
    if not (process := os.fork()):
        try:
            save(path, child + 1, overwrite=False)
        except InputError as error:
            os._exit(3 if "already holds a fitted estimator" in str(error) else 4)
        os._exit(0)
    children.append(process)
print(sorted(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in children))
version_of(path)
""",
        tmp_path / "model",
    )
    assert done.stdout == "[0, 3, 3, 3, 3, 3]\n", done.stdout + done.stderr


KILL = """
path, steps, half = Path(sys.argv[1]), 0, sys.argv[2] == "half"

def killed_at(step):
    '''Save version 2 in a process that ends before this step on the file system; return its exit code.'''
    if process := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    count = 0
    def end(event, arguments):
        nonlocal count
        if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate") or event == "fsync":
            count += 1
            if count > step:
                if half and event == "fsync" and os.fstat(arguments).st_size > 1:
                    os.ftruncate(arguments, os.fstat(arguments).st_size // 2)
                os._exit(9)
    flush = os.fsync
    def fsync(descriptor):
        end("fsync", descriptor)
        flush(descriptor)
    os.fsync = fsync
    sys.addaudithook(end)
    save(path, 2)
    os._exit(0)
"""


@POSIX
@pytest.mark.parametrize("content", ["whole", "half"])
def test_killed_at_any_step(tmp_path: Path, content: str) -> None:
    """The kill leaves the last file written whole or half; then a second kill, and a save."""
    done = script(
        KILL
        + """
seen = []
for step in range(10**6):
    save(path, 1)
    code = killed_at(step)
    seen.append(version_of(path))
    if not code:
        break
    again = killed_at(step // 2)
    assert again == 9
    assert version_of(path) in (1, 2)
    if step % 2:
        save(path, 2)
        assert version_of(path) == 2
        assert names(path) == ["config.json", "data.json", "model.safetensors", "only-2.txt"], names(path)
print(sorted(set(seen)), step > 15)
""",
        tmp_path / "model",
        content,
    )
    assert done.stdout == "[1, 2] True\n", done.stdout + done.stderr


@POSIX
def test_killed_at_any_step_of_the_first_save(tmp_path: Path) -> None:
    done = script(
        KILL
        + """
import shutil
for step in range(10**6):
    code = killed_at(step)
    if (path / "config.json").exists():
        assert version_of(path) == 2
    else:
        save(path, 1, overwrite=False)  # leftovers do not prevent it
        assert version_of(path) == 1
        assert names(path) == ["config.json", "data.json", "model.safetensors", "only-1.txt"], names(path)
    shutil.rmtree(path)
    if not code:
        break
print(step > 10)
""",
        tmp_path / "model",
        "half",
    )
    assert done.stdout == "True\n", done.stdout + done.stderr


def test_files_of_the_previous_estimator_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "model"
    save(path, 1)
    (path / "notes.txt").write_text("mine")
    save(path, 2)
    assert names(path) == ["config.json", "data.json", "model.safetensors", "notes.txt", "only-2.txt"]
    assert (path / "data.json").read_bytes() == b'{"version": 2}'


def test_estimators_of_the_previous_format_are_read_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "model"
    save(path, 1)
    config = json.loads((path / "config.json").read_text())
    del config["files"]
    (path / "config.json").write_text(json.dumps(config))
    assert version_of(path) == 1
    assert estimator_directory.companion(path, "data.json") == b'{"version": 1}'
    save(path, 2)
    assert version_of(path) == 2


def test_a_companion_belongs_to_its_estimator(tmp_path: Path) -> None:
    path = tmp_path / "model"
    save(path, 1)
    assert estimator_directory.companion(path, "data.json") == b'{"version": 1}'
    assert estimator_directory.companion(path, "none.json") is None
    (path / "data.json").write_bytes(b'{"version": 7}')
    with pytest.raises(InputError, match=r"data\.json is damaged or from a different save than config\.json: restore"):
        estimator_directory.companion(path, "data.json")


@pytest.mark.skipif(not hasattr(os, "symlink") or sys.platform == "win32", reason="no symbolic links")
@pytest.mark.parametrize("there", [True, False])
def test_links_are_written_through(tmp_path: Path, there: bool) -> None:
    target, link = tmp_path / "disk" / "model", tmp_path / "link"
    if there:
        target.mkdir(parents=True)
    link.symlink_to(target)
    save(link, 1, overwrite=False)
    save(link, 2)
    assert link.is_symlink()
    assert version_of(link) == version_of(target) == 2
    assert names(tmp_path) == ["disk", "link"]
    assert names(target.parent) == ["model"]


@pytest.mark.skipif(sys.platform != "linux", reason="mounts as Linux does")
def test_mount_points_are_written_into(tmp_path: Path) -> None:
    path = tmp_path / "mounted"
    path.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "none", str(path)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        save(path, 1, overwrite=False)
        assert version_of(path) == 1
        save(path, 2)
        assert version_of(path) == 2
        assert len(names(path)) == 4
    finally:
        subprocess.run(["umount", str(path)], check=True)


@POSIX
def test_only_one_save_can_claim_a_place(tmp_path: Path) -> None:
    path = tmp_path / "new" / "model"
    with estimator_directory.claim(path, overwrite=False):
        with pytest.raises(InputError, match=f"model is in use by process {os.getpid()} on .*: wait for it, stop it"):
            estimator_directory.claim(path, overwrite=False).__enter__()
        assert files.estimator_in(path) is None
    assert names(tmp_path) == []  # created, not used, and removed again


@pytest.mark.parametrize("there", [True, False])
def test_a_used_claim_is_kept(tmp_path: Path, there: bool) -> None:
    path = tmp_path / "new" / "model"
    if there:
        path.mkdir(parents=True)
    with estimator_directory.claim(path, overwrite=False, size=100_000) as place:
        assert sum(p.stat().st_size for p in path.iterdir()) >= 100_000  # the reserved space
        place.write("GRURegressor", {"hidden_size": 3}, {"version": 3}, {"x": np.full(1003, 3)})
    assert version_of(path) == 3
    assert names(path) == ["config.json", "model.safetensors"]


def test_an_unused_claim_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model"
    save(path, 1)
    before = {p.name: p.read_bytes() for p in path.iterdir()}
    with pytest.raises(KeyboardInterrupt), estimator_directory.claim(path, overwrite=True, size=1000):
        raise KeyboardInterrupt
    assert {p.name: p.read_bytes() for p in path.iterdir()} == before
    empty = tmp_path / "empty"
    empty.mkdir()
    with estimator_directory.claim(empty, overwrite=False, size=1000):
        pass
    assert names(empty) == []


@pytest.mark.skipif(sys.platform != "linux", reason="mounts as Linux does")
def test_a_place_without_room_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "small"
    path.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(path)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        with pytest.raises(InputError, match=r"cannot hold the 0\.2 MB of the estimator: No space left on device"):
            estimator_directory.claim(path / "model", overwrite=False, size=200_000).__enter__()
        assert names(path) == []
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_a_failed_write_whole_names_the_file_and_keeps_its_contents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        files.write_whole(tmp_path / "none" / "x.csv", b"1")
    assert caught.value.filename == str(tmp_path / "none" / "x.csv")
    file = tmp_path / "x.csv"
    file.write_bytes(b"before")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_whole(file, b"after")
    assert names(tmp_path) == ["x.csv"]
    assert file.read_bytes() == b"before"


@pytest.mark.skipif(sys.platform == "win32", reason="no symbolic links")
def test_write_whole_writes_through_links(tmp_path: Path) -> None:
    (tmp_path / "x.csv").symlink_to(tmp_path / "real.csv")
    files.write_whole(tmp_path / "x.csv", b"1")
    assert (tmp_path / "x.csv").is_symlink()
    assert (tmp_path / "real.csv").read_bytes() == b"1"
