"""What a run leaves on disk: settings, tokenizer, weights, log, checkpoints. Written so that nothing half-done is read.

    config.json            settings, every default resolved; versions; what the corpus was
    tokenizer.json         the vocabulary
    model.safetensors      the weights to use: those of the last checkpoint (after early stopping: the best ones)
    best.safetensors       the weights with the lowest held-out loss so far, where a part is held out
    checkpoints/step-N/    everything that continuing needs; complete exactly when its manifest.json is there
    log.jsonl              one report a line
    samples.txt            what the model wrote along the way
    curve.png              perplexity over epochs
    events/                the reports once more, for TensorBoard (--tensorboard)
    lock                   locked by the process that trains, which it names

Every file is written under a temporary name, flushed to the disk and renamed. Arrays are NumPy; no torch, no pickle.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headgate.errors import InputError, suggest
from headgate.settings.earlier import translated
from headgate.settings.run import SECTIONS, Settings, from_tables
from headgate.storage import files
from headgate.storage.files import file_sha256
from headgate.storage.lock import locked
from headgate.text import tokenizer as tokenizers
from headgate.text.tokenizer import Tokenizer

Arrays = Mapping[str, np.ndarray]
FORMAT = 2  # of config.json; raised when an older headgate could not read it
CHECKPOINT_FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """A moment of training: named groups of arrays (weights, optimizer, ...) and a JSON-able state."""

    step: int
    arrays: dict[str, dict[str, np.ndarray]]
    state: dict[str, Any]


class RunDirectory:
    """One run on disk. :meth:`create` starts one, :meth:`open` reads one; both raise InputError when that cannot be."""

    FILES = ("config.json", "tokenizer.json", "model.safetensors", "best.safetensors", "log.jsonl", "samples.txt")

    def __init__(self, path: Path, settings: Settings, tokenizer: Tokenizer, facts: dict[str, Any]) -> None:
        self.path = path
        self.settings = settings
        self.tokenizer = tokenizer
        self.facts = facts  # what config.json says beside the settings: versions, corpus

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
        """Start a run in a new or empty directory; ``overwrite`` removes the run (and nothing else) that is there.

        ``held``: the caller has locked the directory.
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
        """Remove the run, and nothing else that is in its directory."""
        _remove_run(self.path)

    @classmethod
    def open(cls, path: Path) -> "RunDirectory":
        """Read the settings and the tokenizer of the run in ``path``."""
        if not is_run(path):
            raise InputError(f"{path} holds no run (there is no config.json): give the directory that train made")
        where = f"{path}/config.json"
        _check_kind(path)
        tables, facts, version = files.parse_json(
            (path / "config.json").read_bytes(), where, lambda c: (c["settings"], c["facts"], c["format"]),
            remedy="restore it, or train again",
        )  # fmt: skip
        if type(version) is not int or not 1 <= version <= FORMAT:
            known = f"1 to {FORMAT}"
            raise InputError(f"{where} has format {version!r}, this headgate reads {known}: use the one that wrote it")
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
        """The weights to use, or those with the lowest held-out loss."""
        file = self.path / ("best.safetensors" if best else "model.safetensors")
        if not file.exists():
            raise InputError(
                f"{self.path} has no {file.name}: "
                + ("the run held no text out; omit --best" if best else "it has not reached a checkpoint yet")
            )
        arrays = files.parse_arrays(file.read_bytes(), file)
        if wrong := [
            name for name, value in arrays.items() if value.dtype.kind == "f" and not np.isfinite(value).all()
        ]:
            raise InputError(
                f"{file} is damaged ({wrong[0]} holds what is no finite number): restore it, or train again"
            )
        return arrays

    def write(self, name: str, content: bytes) -> None:
        """Write one file of the run: all of it or nothing."""
        files.write_whole(self.path / name, content)

    def append(self, name: str, text: str) -> None:
        """Add text to log.jsonl or samples.txt: all of it or nothing. What UTF-8 cannot hold is escaped."""
        before = self._length(name)
        try:
            with (self.path / name).open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        except OSError:
            if self._length(name) > before:
                os.truncate(self.path / name, before)
            raise

    def log(self) -> list[dict[str, Any]]:
        """The reports of log.jsonl, in order."""
        if not (self.path / "log.jsonl").exists():
            return []
        try:
            entries = [json.loads(line) for line in (self.path / "log.jsonl").read_text("utf-8").splitlines()]
        except (ValueError, RecursionError) as error:
            raise InputError(f"{self.path}/log.jsonl is damaged ({error}): remove the broken line") from None
        for number, entry in enumerate(entries, 1):
            if not isinstance(entry, dict) or not all(map(_reportable, entry.values())):
                raise InputError(f"{self.path}/log.jsonl is damaged (line {number} is no report): remove that line")
        return entries

    # Checkpoints

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, make its groups ``weights`` and ``best`` the run's, then let go of older checkpoints.

        Any failure, a full disk for instance, leaves what was there before and raises OSError.
        """
        final = self.path / "checkpoints" / f"step-{checkpoint.step:09d}"
        temporary = final.with_name(f".{final.name}.tmp")
        state = {**checkpoint.state, "lengths": {name: self._length(name) for name in ("log.jsonl", "samples.txt")}}
        contents = {f"{group}.safetensors": files.format_arrays(arrays) for group, arrays in checkpoint.arrays.items()}
        contents["state.json"] = json.dumps(state).encode()
        manifest = {
            "format": CHECKPOINT_FORMAT,
            "step": checkpoint.step,
            "files": {
                name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
                for name, content in contents.items()
            },
        }
        older = None
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            for name, content in contents.items():
                files.write_durably(temporary / name, content)
            files.write_durably(temporary / "manifest.json", json.dumps(manifest, indent=2).encode())
            files.flush_directory(temporary)
            if final.exists():  # the same step again, after an interruption right behind a checkpoint
                older = final.with_name(f"{final.name}.old")
                final.rename(older)
            try:
                temporary.rename(final)
            except OSError:
                if older is not None:
                    older.rename(final)
                raise
            files.flush_directory(final.parent)
            if not _complete(final):
                raise OSError(f"{final} did not read back as it was written")
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        self._publish(final)

    def use_best(self) -> None:
        """Make the weights with the lowest held-out loss those to use."""
        self.write("model.safetensors", (self.path / "best.safetensors").read_bytes())

    def recover(self) -> Checkpoint | None:
        """The newest complete checkpoint, or None where none was reached; everything else is brought to its moment.

        What was written after it (reports, samples, an unfinished checkpoint) is removed: continuing writes it again.
        """
        candidates = self._candidates()
        for path in candidates:
            if _complete(path):
                checkpoint, lengths = _read(path)
                for name, length in lengths.items():
                    if self._length(name) > length:
                        os.truncate(self.path / name, length)
                self._publish(path)
                return checkpoint
        folder = self.path / "checkpoints"
        if candidates:
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
        """The state of the newest complete checkpoint, or None; nothing is changed."""
        path = next((path for path in self._candidates() if _complete(path)), None)
        return None if path is None else _read_state(path)

    def newest(self) -> Checkpoint | None:
        """The newest complete checkpoint, or None; nothing is changed."""
        return next((_read(path)[0] for path in self._candidates() if _complete(path)), None)

    def _candidates(self) -> list[Path]:
        folder = self.path / "checkpoints"
        candidates = [p for p in folder.glob("step-*") if p.is_dir()] if folder.is_dir() else []
        return sorted(candidates, key=lambda p: (p.stem, p.suffix != ".old"), reverse=True)

    def _publish(self, checkpoint: Path) -> None:
        """Copy the weights of a complete checkpoint to where they are used, then remove everything else beside it."""
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
    """Whether log.jsonl can hold such a value: a number that a float can be, a truth value, null."""
    return value is None or isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)


def check_free(path: Path, *, overwrite: bool = False) -> None:
    """InputError where a run cannot be started in a directory; ``overwrite``: it may hold one."""
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file: name a directory for the run with --out")
    if is_run(path):
        if not overwrite:
            raise InputError(f"{path} already holds a run: continue it with --resume, replace it with --overwrite")
        _check_kind(path)
    elif path.is_dir() and {p.name for p in path.iterdir()} - {
        "checkpoints",
        "lock",
        "tokenizer.json",
        ".tokenizer.json.tmp",
        ".config.json.tmp",
    }:  # those five: what is left where creating a run was cut short
        raise InputError(f"{path} is not empty and holds no run: name a new directory with --out")


def is_run(path: Path) -> bool:
    """Whether a directory holds a run, whole or damaged."""
    return (path / "config.json").exists()


def _check_kind(path: Path) -> None:
    """InputError where a directory holds a fitted estimator, and no language model."""
    if kind := files.estimator_in(path):
        raise InputError(f"{path} holds a {kind}, no language model: headgate predict reads it")


def _remove_run(path: Path) -> None:
    for file in (path / "events").glob("events.out.tfevents.*"):
        file.unlink()
    if (path / "events").is_dir() and not any((path / "events").iterdir()):
        (path / "events").rmdir()
    for name in (*RunDirectory.FILES, "curve.png"):
        (path / name).unlink(missing_ok=True)
    shutil.rmtree(path / "checkpoints", ignore_errors=True)


def _read(path: Path) -> tuple[Checkpoint, dict[str, int]]:
    """A complete checkpoint, and how long log.jsonl and samples.txt were."""
    state = _read_state(path)
    lengths = state.pop("lengths")
    arrays = {f.stem: files.parse_arrays(f.read_bytes(), f) for f in path.glob("*.safetensors")}
    return Checkpoint(int(path.name.removeprefix("step-").removesuffix(".old")), arrays, state), lengths


def _read_state(path: Path) -> dict[str, Any]:
    """The state of a complete checkpoint, and under "lengths" how long log.jsonl and samples.txt were."""

    def checked(state: dict[str, Any]) -> dict[str, Any]:
        lengths = state["lengths"]
        if lengths.keys() != {"log.jsonl", "samples.txt"} or any(type(n) is not int or n < 0 for n in lengths.values()):
            raise ValueError(f"lengths cannot be {lengths}")
        return state

    file = path / "state.json"
    remedy = "restore the checkpoint, or start again with --overwrite"
    return files.parse_json(file.read_bytes(), file, checked, remedy=remedy)


def _complete(checkpoint: Path) -> bool:
    """Whether the manifest is there, names this checkpoint, and every file is as it says."""
    try:
        manifest = json.loads((checkpoint / "manifest.json").read_bytes())
        there = {file.name for file in checkpoint.iterdir() if file.is_file()}
        return (
            manifest["format"] == CHECKPOINT_FORMAT
            and f"step-{manifest['step']:09d}" == checkpoint.name.removesuffix(".old")
            and {"state.json"} <= manifest["files"].keys() <= there
            and all(
                (checkpoint / name).stat().st_size == fact["size"] and file_sha256(checkpoint / name) == fact["sha256"]
                for name, fact in manifest["files"].items()
            )
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
