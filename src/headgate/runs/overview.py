"""The state and progress of runs, read from their directories without changing them."""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headgate.errors import InputError
from headgate.runs.run_directory import RunDirectory, is_run
from headgate.storage.files import estimator_in
from headgate.storage.lock import in_use


@dataclass(frozen=True)
class Overview:
    """The state, progress and quality of one run.

    state       running, interrupted (continue with --resume), finished, stopped early, diverged, damaged, unreadable;
                "fitted" for an estimator
    perplexity  the training perplexity of the last report; None if there is none
    held_out    the lowest held-out perplexity; None if there is none
    age         seconds since the directory was last written to
    size        bytes on disk
    problem     what is wrong with a damaged or unreadable run
    """

    path: Path
    state: str
    epoch: int | None
    epochs: int | None
    perplexity: float | None
    held_out: float | None
    age: float
    size: int
    problem: str | None = None


def find(folder: Path) -> list[Overview]:
    """Return the runs in a folder by name, or the folder itself if it is a run; raises InputError if there are none."""
    if not folder.is_dir():
        raise InputError(f"there is no directory {folder}: name the one that holds the runs")
    paths = [folder] if _may_be_run(folder) else sorted(p for p in folder.iterdir() if _may_be_run(p))
    if not paths:
        raise InputError(f"{folder} holds no runs: name the directory that does, as in 'headgate runs DIR'")
    return [look(path) for path in paths]


def look(path: Path) -> Overview:
    """Return the overview of one run; for a damaged or unreadable run, with a problem instead of numbers."""
    written = [stat for folder, _, names in os.walk(path) for name in names if (stat := _stat(Path(folder, name)))]
    age = max(time.time() - max((s.st_mtime for s in written), default=0.0), 0.0)
    size = sum(s.st_size for s in written)
    if estimator_in(path):
        return Overview(path, "fitted", None, None, None, None, age, size)
    try:
        run = RunDirectory.open(path)
        log, progress = run.log(), run.progress()
        entries = [entry for entry in log if "perplexity" in entry]
        held_out = [e["held_out_perplexity"] for e in entries if e.get("held_out_perplexity") is not None]
        epoch = entries[-1]["epoch"] if entries else 0
        perplexity = entries[-1]["perplexity"] if entries else None
        state = _state(run, log, progress)
    except InputError as error:
        return Overview(path, "damaged", None, None, None, None, age, size, str(error))
    except (KeyError, TypeError) as error:
        problem = f"{path}: a report or the checkpoint lacks {error}: restore it, or train again"
        return Overview(path, "damaged", None, None, None, None, age, size, problem)
    except OSError as error:
        problem = f"{error.filename or path}: {error.strerror or error}: check its permissions"
        return Overview(path, "unreadable", None, None, None, None, age, size, problem)
    best = min(held_out) if held_out else None
    return Overview(path, state, epoch, run.settings.training.epochs, perplexity, best, age, size)


def _may_be_run(path: Path) -> bool:
    """Return True if a directory holds a run, or cannot be searched."""
    try:
        return is_run(path)
    except PermissionError:
        return True


def _stat(file: Path) -> os.stat_result | None:
    """Return the status of a file; None if it has just been removed, as files of old checkpoints are."""
    try:
        return file.stat()
    except OSError:
        return None


def _state(run: RunDirectory, log: Sequence[dict[str, Any]], progress: dict[str, Any] | None) -> str:
    settings = run.settings.training
    if in_use(run.path):
        return "running"
    if log and log[-1].get("diverged"):
        return "diverged"
    if progress is not None and progress["epoch"] >= settings.epochs:
        return "finished"
    if progress is not None and settings.patience and progress["waited"] >= settings.patience:
        return "stopped early"
    return "interrupted"


def differences(runs: Sequence[RunDirectory]) -> dict[str, list[Any]]:
    """Return the settings in which runs differ, as name -> values in the order of the runs."""
    tables = [{k: v for section in run.settings.to_dict().values() for k, v in section.items()} for run in runs]
    values = {name: [table[name] for table in tables] for name in tables[0]}
    return {name: row for name, row in values.items() if any(value != row[0] for value in row)}


def in_words(seconds: float) -> str:
    """Format a time span in its largest unit.

    >>> in_words(59), in_words(7200), in_words(200_000)
    ('59 s', '2 h', '2 d')
    """
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def as_json(overview: Overview) -> str:
    return json.dumps({**overview.__dict__, "path": str(overview.path)})
