"""The files of a run: settings, tokenizer, weights, log, checkpoints. Written atomically: no reader sees half a file.

    config.json            settings, with all defaults filled in; versions; facts about the corpus
    tokenizer.json         the vocabulary
    model.safetensors      the current weights: those of the last checkpoint (after early stopping: the best ones)
    best.safetensors       the weights with the lowest held-out loss so far, if a part is held out
    checkpoints/step-N/    everything needed to continue; complete if and only if it has a manifest.json
    log.jsonl              one report per line
    samples.txt            texts that the model wrote during training
    curve.png              perplexity over epochs
    events/                the same reports for TensorBoard (--tensorboard)
    lock                   locked by the process that trains; contains its process id

Every file is written under a temporary name, flushed to disk and renamed. Arrays are NumPy; no torch, no pickle.
"""

import contextlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from headgate.errors import InputError, suggest
from headgate.runs import checkpoint as checkpoints
from headgate.runs.checkpoint import Checkpoint
from headgate.settings.earlier import translated
from headgate.settings.run import SECTIONS, Settings, from_tables
from headgate.storage import files
from headgate.storage.directory import foreign
from headgate.storage.lock import locked
from headgate.text import tokenizer as tokenizers
from headgate.text.tokenizer import Tokenizer

FORMAT = 2  # of config.json; increased when older versions of headgate cannot read it
_LEFTOVERS = re.compile(r"checkpoints|lock|tokenizer\.json|\.(tokenizer|config)\.json\.tmp")  # of an interrupted create


class RunDirectory:
    """One run on disk. :meth:`create` starts a run, :meth:`open` reads one; both raise InputError on failure."""

    FILES = ("config.json", "tokenizer.json", "model.safetensors", "best.safetensors", "log.jsonl", "samples.txt")

    def __init__(self, path: Path, settings: Settings, tokenizer: Tokenizer, facts: dict[str, Any]) -> None:
        self.path = path
        self.settings = settings
        self.tokenizer = tokenizer
        self.facts = facts  # the rest of config.json: versions, corpus

    def __repr__(self) -> str:
        return f"RunDirectory({str(self.path)!r})"

    @classmethod
    def create(
        cls,
        path: Path,
        settings: Settings,
        tokenizer: Tokenizer,
        facts: dict[str, Any],
        *,
        overwrite: bool = False,
        held: bool = False,
    ) -> "RunDirectory":
        """Start a run in a new or empty directory; with ``overwrite``, first remove the run (and nothing else) in it.

        Pass ``held=True`` if the caller has locked the directory.
        """
        check_free(path, overwrite=overwrite)
        if is_run(path):
            with contextlib.nullcontext() if held else locked(path):
                _remove_run(path)
        (path / "checkpoints").mkdir(parents=True, exist_ok=True)
        run = cls(path, settings, tokenizer, facts)
        run.write("tokenizer.json", files.format_json(tokenizer.to_json()))
        run.write_settings()
        return run

    def remove(self) -> None:
        """Remove the run, but nothing else in its directory."""
        _remove_run(self.path)

    @classmethod
    def open(cls, path: Path) -> "RunDirectory":
        """Read the settings and the tokenizer of the run in ``path``."""
        if not is_run(path):
            raise InputError(
                f"{path} holds no run (there is no config.json): name a directory that headgate train created"
            )
        where = f"{path}/config.json"
        _check_kind(path)
        tables, facts, version = files.parse_json(
            (path / "config.json").read_bytes(),
            where,
            lambda c: (c["settings"], c["facts"], c["format"]),
            remedy="restore it, or train again",
        )
        if type(version) is not int or not 1 <= version <= FORMAT:
            raise InputError(
                f"{where} has format {version!r}, but this headgate reads 1 to {FORMAT}: use the version that wrote it"
            )
        if not isinstance(tables, dict) or not isinstance(facts, dict):
            raise InputError(f"{where} is damaged (settings and facts must be tables): restore it, or train again")
        try:
            described = (path / "tokenizer.json").read_text("utf-8")
        except (FileNotFoundError, UnicodeDecodeError):
            raise InputError(f"{path}/tokenizer.json is missing or damaged: restore it, or train again") from None
        if version == 1:
            tables = {name: translated(t) if isinstance(t, dict) else t for name, t in tables.items()}
        if unknown := sorted(tables.keys() - SECTIONS.keys()):
            raise InputError(f"{where}: unknown section {', '.join(unknown)}: {suggest(unknown[0], SECTIONS)}")
        return cls(path, from_tables(tables, where), tokenizers.from_json(described, f"{path}/tokenizer.json"), facts)

    def write_settings(self) -> None:
        config = {"format": FORMAT, "settings": self.settings.to_dict(), "facts": self.facts}
        self.write("config.json", files.format_json(config, indent=2))

    def weights(self, *, best: bool = False) -> dict[str, np.ndarray]:
        """Return the current weights, or with ``best`` those with the lowest held-out loss."""
        file = self.path / ("best.safetensors" if best else "model.safetensors")
        if not file.exists():
            raise InputError(
                f"{self.path} has no {file.name}: "
                + ("the run has no held-out text; omit --best" if best else "it has not reached a checkpoint yet")
            )
        arrays = files.parse_arrays(file.read_bytes(), file)
        if wrong := [
            name for name, value in arrays.items() if value.dtype.kind == "f" and not np.isfinite(value).all()
        ]:
            raise InputError(
                f"{file} is damaged ({wrong[0]} contains values that are not finite): restore it, or train again"
            )
        return arrays

    def write(self, name: str, content: bytes) -> None:
        """Write one file of the run, atomically."""
        files.write_whole(self.path / name, content)

    def append(self, name: str, text: str) -> None:
        """Append text to log.jsonl or samples.txt, completely or not at all; escape what UTF-8 cannot encode."""
        before = self._length(name)
        try:
            with (self.path / name).open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        except OSError:
            if self._length(name) > before:
                os.truncate(self.path / name, before)
            raise

    def log(self) -> list[dict[str, Any]]:
        """Return the reports of log.jsonl, in order."""
        if not (self.path / "log.jsonl").exists():
            return []
        try:
            entries = [json.loads(line) for line in (self.path / "log.jsonl").read_text("utf-8").splitlines()]
        except (ValueError, RecursionError) as error:
            raise InputError(f"{self.path}/log.jsonl is damaged ({error}): remove the broken line") from None
        for number, entry in enumerate(entries, 1):
            if not isinstance(entry, dict) or not all(map(_reportable, entry.values())):
                raise InputError(f"{self.path}/log.jsonl is damaged (line {number} is not a report): remove that line")
        return entries

    # Checkpoints

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, make its groups ``weights`` and ``best`` those of the run, then delete older checkpoints.

        A failure, such as a full disk, raises OSError and leaves the previous checkpoint in place.
        """
        lengths = {name: self._length(name) for name in ("log.jsonl", "samples.txt")}
        self._publish(checkpoints.write(self.path / "checkpoints", checkpoint, lengths))

    def use_best(self) -> None:
        """Make the weights with the lowest held-out loss the current ones."""
        self.write("model.safetensors", (self.path / "best.safetensors").read_bytes())

    def recover(self) -> Checkpoint | None:
        """Return the newest complete checkpoint, or None if there is none, and reset the other files to its step.

        Reports, samples and unfinished checkpoints written after it are removed: continuing writes them again. Raises
        InputError if there are checkpoints but none is complete.
        """
        folder = self.path / "checkpoints"
        path = checkpoints.newest(folder)
        if path is not None:
            checkpoint, lengths = checkpoints.read(path)
            for name, length in lengths.items():
                if self._length(name) > length:
                    os.truncate(self.path / name, length)
            self._publish(path)
            return checkpoint
        if checkpoints.candidates(folder):
            raise InputError(
                f"no checkpoint in {folder} is complete (checked against its manifest.json): restore one, or start "
                "again with --overwrite"
            )
        for name in ("log.jsonl", "samples.txt"):
            (self.path / name).unlink(missing_ok=True)
        for unfinished in folder.glob(".step-*.tmp"):
            shutil.rmtree(unfinished)
        return None

    def progress(self) -> dict[str, Any] | None:
        """Return the state of the newest complete checkpoint, or None, without changing any file."""
        path = checkpoints.newest(self.path / "checkpoints")
        return None if path is None else checkpoints.read_state(path)

    def newest(self) -> Checkpoint | None:
        """Return the newest complete checkpoint, or None, without changing any file."""
        path = checkpoints.newest(self.path / "checkpoints")
        return None if path is None else checkpoints.read(path)[0]

    def _publish(self, checkpoint: Path) -> None:
        """Make the weights of a complete checkpoint those of the run, then remove all other checkpoints."""
        for group, name in (("best", "best.safetensors"), ("weights", "model.safetensors")):
            if (checkpoint / f"{group}.safetensors").exists():
                self.write(name, (checkpoint / f"{group}.safetensors").read_bytes())
        for other in checkpoint.parent.iterdir():
            if other != checkpoint and other.is_dir():
                shutil.rmtree(other)

    def _length(self, name: str) -> int:
        file = self.path / name
        return file.stat().st_size if file.exists() else 0


def _reportable(value: Any) -> bool:
    """Return True for a value that log.jsonl may contain: a float, an integer of 64 bits, a bool or None."""
    return value is None or isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)


def check_free(path: Path, *, overwrite: bool = False) -> None:
    """Raise InputError unless a run can be started in a directory, which with ``overwrite`` may hold one."""
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file: name a directory for the run with --out")
    if is_run(path):
        if not overwrite:
            raise InputError(f"{path} already holds a run: continue it with --resume, replace it with --overwrite")
        _check_kind(path)
    elif foreign(path, _LEFTOVERS):
        raise InputError(f"{path} is not empty and holds no run: name a new directory with --out")


def is_run(path: Path) -> bool:
    """Return True if a directory holds a run or a fitted estimator, complete or damaged."""
    return (path / "config.json").exists()


def _check_kind(path: Path) -> None:
    """Raise InputError if a directory holds a fitted estimator instead of a language model."""
    if kind := files.estimator_in(path):
        raise InputError(f"{path} holds a {kind}, not a language model: use headgate predict")


def _remove_run(path: Path) -> None:
    for file in (path / "events").glob("events.out.tfevents.*"):
        file.unlink()
    if (path / "events").is_dir() and not any((path / "events").iterdir()):
        (path / "events").rmdir()
    for name in (*RunDirectory.FILES, "curve.png"):
        (path / name).unlink(missing_ok=True)
    shutil.rmtree(path / "checkpoints", ignore_errors=True)
