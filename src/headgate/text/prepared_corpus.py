"""A prepared corpus: a text tokenized once, as ids in files with a manifest. ``prepare.py`` makes it.

manifest.json       what the corpus is, its settings, and every shard's size and SHA-256; written last
tokenizer.json      the vocabulary
shard-000000.bin    ids, little-endian, in the smallest unsigned type that fits the vocabulary
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headgate.errors import InputError
from headgate.settings.earlier import translated
from headgate.storage.directory import problem
from headgate.storage.files import parse_json
from headgate.text import tokenizer as tokenizers
from headgate.text.stored_ids import StoredIds
from headgate.text.tokenizer import Tokenizer

FORMAT = 2
JOB = ("format", "sources", "settings", "seed")
SETTINGS = ("encoding", "normalize", "documents", "tokenizer", "vocab_size", "min_frequency", "unknown")


@dataclass(frozen=True)
class PreparedCorpus:
    """An opened and checked prepared corpus."""

    path: Path
    job: dict[str, Any]  # its sources and settings: the keys JOB
    tokenizer: Tokenizer
    ids: StoredIds
    characters: int
    documents: int
    beginning: str
    sha256: str  # of the manifest, which contains the checksums of everything else

    @classmethod
    def open(cls, path: Path, *, share: tuple[int, int] = (0, 1)) -> "PreparedCorpus":
        """Open a prepared corpus and check every shard's size and content against the manifest.

        With ``share`` = (r, n), check the contents of shards r, r + n, ... only. Raises InputError that names the file
        if one is missing or damaged.
        """
        raw = (path / "manifest.json").read_bytes()
        manifest = _parse(raw, path / "manifest.json")
        tokenizer = read_tokenizer(path, manifest["tokenizer_sha256"])
        dtype = dtype_of(tokenizer.vocabulary_size)
        shards = manifest["shards"]
        for number, shard in enumerate(shards):
            file = path / shard["file"]
            size = shard["tokens"] * dtype.itemsize
            checked = number % share[1] == share[0]
            if wrong := problem(file, size, shard["sha256"] if checked else None):
                raise InputError(f"{file} {wrong}: restore it, or prepare the corpus again")
        return cls(
            path=path,
            job={key: manifest[key] for key in JOB},
            tokenizer=tokenizer,
            ids=StoredIds([path / s["file"] for s in shards], [s["tokens"] for s in shards], dtype),
            characters=manifest["characters"],
            documents=manifest["documents"],
            beginning=manifest["beginning"],
            sha256=hashlib.sha256(raw).hexdigest(),
        )


def settings_of(path: Path) -> dict[str, Any]:
    """Return the settings, those named in SETTINGS, that a corpus was prepared with."""
    settings: dict[str, Any] = _parse((path / "manifest.json").read_bytes(), path / "manifest.json")["settings"]
    return settings


def _parse(raw: bytes, where: Path) -> dict[str, Any]:
    def checked(manifest: dict[str, Any]) -> dict[str, Any]:
        if manifest.pop("checksum") != checksum_of(manifest):
            raise ValueError("its checksum differs")
        if manifest["format"] not in (1, FORMAT):
            raise InputError(
                f"{where} has format {manifest['format']!r}, but this headgate reads 1 to {FORMAT}: prepare the text "
                "again"
            )
        manifest |= {"format": FORMAT, "settings": translated(manifest["settings"])}
        _check(manifest)
        return manifest

    return parse_json(raw, where, checked, remedy="restore it, or prepare the corpus again")


def _check(manifest: dict[str, Any]) -> None:
    """Raise ValueError, KeyError or TypeError for a manifest that ``prepare`` would not write."""
    shards = manifest["shards"]
    for number, shard in enumerate(shards):
        if shard["file"] != f"shard-{number:06d}.bin" or not isinstance(shard["sha256"], str):
            raise ValueError(f"shard {number} is not described")
    numbers = [shard["tokens"] for shard in shards] + [manifest[key] for key in ("characters", "documents")]
    if not all(type(n) is int and 0 <= n < 1 << 50 for n in numbers) or not isinstance(manifest["beginning"], str):
        raise ValueError("token and character counts must be non-negative integers")
    if manifest["settings"].keys() != set(SETTINGS) or not isinstance(manifest["tokenizer_sha256"], str):
        raise ValueError("its settings are incomplete")
    if not manifest.keys() >= set(JOB):
        raise ValueError("it does not say what was prepared")


def is_prepared(path: str | Path) -> bool:
    """Return True if a directory holds a prepared corpus, whole or damaged."""
    exists = [os.path.isfile(Path(path) / name) for name in ("manifest.json", "tokenizer.json", "shard-000000.bin")]
    return exists[0] and any(exists[1:])


def read_tokenizer(path: Path, sha256: str) -> Tokenizer:
    """Read the tokenizer of a prepared corpus. Raises InputError unless it has the given SHA-256."""
    file = path / "tokenizer.json"
    try:
        raw = file.read_bytes()
        text = raw.decode()
    except (FileNotFoundError, UnicodeDecodeError):
        raise InputError(f"{file} is missing or damaged: restore it, or prepare the corpus again") from None
    if hashlib.sha256(raw).hexdigest() != sha256:
        raise InputError(f"{file} is not the tokenizer that the corpus was made with: restore it, or prepare it again")
    return tokenizers.from_json(text, str(file))


def dtype_of(vocabulary_size: int) -> np.dtype[Any]:
    """Return the dtype in which ids are stored.

    >>> [dtype_of(V).name for V in (256, 257, 65_536, 65_537)]
    ['uint8', 'uint16', 'uint16', 'uint32']
    """
    return next(np.dtype(t) for t in ("<u1", "<u2", "<u4") if vocabulary_size <= 1 << 8 * np.dtype(t).itemsize)


def checksum_of(manifest: dict[str, Any]) -> str:
    """Return the SHA-256 of a manifest's content, apart from its formatting."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
