"""Directories that are complete or absent: their files, and a manifest with the size and SHA-256 of each."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from headgate.storage import files

MANIFEST = "manifest.json"


def write(path: Path, contents: Mapping[str, bytes], manifest: Mapping[str, Any]) -> None:
    """Write the files of a directory, and a manifest with these entries, and rename the directory into place.

    A directory that is already there is kept as ``NAME.old`` until the caller removes it. A failure, such as a full
    disk, raises OSError and leaves the directory as it was.
    """
    temporary, older = path.with_name(f".{path.name}.tmp"), None
    described = {
        **manifest,
        "files": {
            name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in contents.items()
        },
    }
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        for name, content in contents.items():
            files.write_durably(temporary / name, content)
        files.write_durably(temporary / MANIFEST, json.dumps(described, indent=2).encode())
        files.flush_directory(temporary)
        if path.exists():
            older = path.with_name(f"{path.name}.old")
            path.rename(older)
        try:
            temporary.rename(path)
        except OSError:
            if older is not None:
                older.rename(path)
            raise
        files.flush_directory(path.parent)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def is_complete(path: Path, accepts: Callable[[dict[str, Any]], bool]) -> bool:
    """Return True if a directory has a manifest that ``accepts`` agrees with, and every file matches it."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        return accepts(manifest) and all(
            problem(path / name, facts["size"], facts["sha256"]) is None for name, facts in manifest["files"].items()
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def problem(file: Path, size: int, sha256: str | None) -> str | None:
    """Say how a file differs from its size in bytes and, unless it is None, its SHA-256; None if it does not."""
    if not file.is_file():
        return "is missing"
    if file.stat().st_size != size:
        return f"has {file.stat().st_size:,} bytes instead of {size:,}"
    if sha256 is not None and files.file_sha256(file) != sha256:
        return "is damaged (its checksum differs)"
    return None


def foreign(path: Path, leftovers: re.Pattern[str]) -> str | None:
    """Return the first name in a directory that does not match ``leftovers``; None if all do, or it does not exist."""
    names = sorted(p.name for p in path.iterdir()) if path.is_dir() else []
    return next((name for name in names if not leftovers.fullmatch(name)), None)
