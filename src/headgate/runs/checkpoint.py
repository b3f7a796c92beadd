"""Checkpoints on disk: everything needed to continue a run, in a directory that is complete or ignored."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headgate.storage import directory, files

FORMAT = 1  # of manifest.json; increased when older versions of headgate cannot read it
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Checkpoint:
    """The state of training after a step: named groups of arrays (weights, optimizer, ...) and a state for JSON."""

    step: int
    arrays: dict[str, dict[str, np.ndarray]]
    state: dict[str, Any]


def write(folder: Path, checkpoint: Checkpoint, lengths: Mapping[str, int]) -> Path:
    """Write a checkpoint to ``folder``/step-N and return its path; ``lengths`` are the sizes of the logs in bytes.

    A failure, such as a full disk, raises OSError and leaves the previous checkpoint in place.
    """
    path = folder / f"step-{checkpoint.step:09d}"
    contents = {f"{group}.safetensors": files.format_arrays(arrays) for group, arrays in checkpoint.arrays.items()}
    contents["state.json"] = json.dumps({**checkpoint.state, "lengths": lengths}).encode()
    directory.write(path, contents, {"format": FORMAT, "step": checkpoint.step})
    if not _complete(path):
        raise OSError(f"{path} did not read back as it was written")
    return path


def newest(folder: Path) -> Path | None:
    """Return the path of the newest complete checkpoint, or None."""
    return next((path for path in candidates(folder) if _complete(path)), None)


def candidates(folder: Path) -> list[Path]:
    """Return the paths of all checkpoints, complete or damaged, newest first."""
    paths = [p for p in folder.glob("step-*") if p.is_dir()] if folder.is_dir() else []
    return sorted(paths, key=lambda p: (p.stem, p.suffix != ".old"), reverse=True)


def read(path: Path) -> tuple[Checkpoint, dict[str, int]]:
    """Return a complete checkpoint, and the sizes in bytes of log.jsonl and samples.txt at that step."""
    state = read_state(path)
    lengths = state.pop("lengths")
    arrays = {f.stem: files.parse_arrays(f.read_bytes(), f) for f in path.glob("*.safetensors")}
    return Checkpoint(int(path.name.removeprefix("step-").removesuffix(".old")), arrays, state), lengths


def read_state(path: Path) -> dict[str, Any]:
    """Return the state of a complete checkpoint; "lengths" has the sizes of log.jsonl and samples.txt in bytes."""

    def checked(state: dict[str, Any]) -> dict[str, Any]:
        lengths = state["lengths"]
        if lengths.keys() != {"log.jsonl", "samples.txt"} or any(type(n) is not int or n < 0 for n in lengths.values()):
            raise ValueError(f"lengths must be the sizes of log.jsonl and samples.txt in bytes, got {lengths}")
        return state

    file = path / "state.json"
    remedy = "restore the checkpoint, or start again with --overwrite"
    return files.parse_json(file.read_bytes(), file, checked, remedy=remedy)


def _complete(path: Path) -> bool:
    """Return True if a checkpoint has a manifest that names it and matches every file."""

    def accepts(manifest: dict[str, Any]) -> bool:
        return (
            manifest["format"] == FORMAT
            and f"step-{manifest['step']:09d}" == path.name.removesuffix(".old")
            and "state.json" in manifest["files"]
        )

    return directory.is_complete(path, accepts)
