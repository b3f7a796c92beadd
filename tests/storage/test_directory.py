"""A directory is complete, with its manifest, or it is as it was."""

import errno
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from headgate.storage import directory, files

CONTENTS = {"a.bin": b"abc", "b.json": b"{}"}


def write(path: Path, contents: dict[str, bytes] = CONTENTS) -> None:
    directory.write(path, contents, {"step": 7})


def test_the_manifest_describes_every_file(tmp_path: Path) -> None:
    write(tmp_path / "d")
    manifest = json.loads((tmp_path / "d" / "manifest.json").read_bytes())
    assert manifest["step"] == 7
    assert {name: facts["size"] for name, facts in manifest["files"].items()} == {"a.bin": 3, "b.json": 2}
    assert directory.is_complete(tmp_path / "d", lambda m: m["step"] == 7)
    assert not directory.is_complete(tmp_path / "d", lambda m: m["step"] == 8)
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_replacing_keeps_the_older_one_aside(tmp_path: Path) -> None:
    write(tmp_path / "d")
    write(tmp_path / "d", {"a.bin": b"new"})
    assert (tmp_path / "d" / "a.bin").read_bytes() == b"new"
    assert (tmp_path / "d.old" / "a.bin").read_bytes() == b"abc"


@pytest.mark.parametrize("name", [*CONTENTS, "manifest.json"])
def test_a_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    write(tmp_path / "d")
    durably = files.write_durably

    def full(file: Path, content: bytes) -> None:
        if file.name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        durably(file, content)

    monkeypatch.setattr(files, "write_durably", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "d", {**CONTENTS, "a.bin": b"other"})
    assert [p.name for p in tmp_path.iterdir()] == ["d"]
    assert directory.is_complete(tmp_path / "d", lambda m: True)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda file: file.unlink(), "is missing"),
        (lambda file: file.write_bytes(b"ab"), "has 2 bytes instead of 3"),
        (lambda file: file.write_bytes(b"abd"), "is damaged (its checksum differs)"),
    ],
    ids=["missing", "shorter", "changed"],
)
def test_damage_is_named(tmp_path: Path, damage: Callable[[Path], object], problem: str) -> None:
    write(tmp_path / "d")
    facts = json.loads((tmp_path / "d" / "manifest.json").read_bytes())["files"]["a.bin"]
    file = tmp_path / "d" / "a.bin"
    assert directory.problem(file, **facts) is None
    damage(file)
    assert directory.problem(file, **facts) == problem
    assert not directory.is_complete(tmp_path / "d", lambda m: True)


def test_foreign_names_the_first_other_file(tmp_path: Path) -> None:
    ours = re.compile(r"lock|.+\.tmp")
    assert directory.foreign(tmp_path / "none", ours) is None
    for name in ("lock", "x.tmp"):
        (tmp_path / name).touch()
    assert directory.foreign(tmp_path, ours) is None
    (tmp_path / "notes.txt").touch()
    assert directory.foreign(tmp_path, ours) == "notes.txt"
