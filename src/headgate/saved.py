"""A fitted estimator on disk, without pickle: config.json and model.safetensors in a directory.

config.json            kind of estimator, parameters, what was found out while fitting; versions
model.safetensors      the weights, and the numbers that standardize
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import headgate
from headgate import files
from headgate.errors import InputError, one_line

FORMAT = 1  # of config.json; raised when an older headgate could not read it


@dataclass(frozen=True)
class Saved:
    """What was read: the kind of estimator, its parameters, and what it had learned as facts and arrays."""

    path: Path
    kind: str
    parameters: dict[str, Any]
    facts: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @contextlib.contextmanager
    def damage(self) -> Iterator[None]:
        """Within it, parts that do not fit each other are an InputError that names the directory."""
        try:
            yield
        except (
            LookupError,
            TypeError,
            ValueError,
            AttributeError,
            RuntimeError,
            ArithmeticError,
            OSError,
            MemoryError,
        ) as error:
            raise InputError(
                f"config.json and model.safetensors in {self.path} do not fit each other ({one_line(error)}): "
                "restore both"
            ) from None


def write(
    path: str | os.PathLike[str],
    kind: str,
    parameters: Mapping[str, Any],
    facts: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    *,
    overwrite: bool = False,
    more: Mapping[str, bytes] | None = None,
) -> None:
    """Save an estimator in a new or empty directory; ``overwrite`` replaces one that was saved there.

    All of it or nothing. Parameters and facts may be JSON, NumPy numbers and arrays, and dicts with such keys;
    InputError for others. ``more`` are further files.
    """
    path = Path(os.path.abspath(path))
    check_place(path, overwrite=overwrite)
    content = files.format_arrays(arrays)
    learned = {
        "estimator": kind,
        "parameters": {name: _described(value, name) for name, value in parameters.items()},
        "facts": {name: _described(value, name) for name, value in facts.items()},
    }
    config = {"format": FORMAT, "headgate": headgate.__version__, "sha256": _checksum(learned, content), **learned}
    described = json.dumps(config, indent=1, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace")
    path.parent.mkdir(parents=True, exist_ok=True)
    new, old = (path.with_name(f".{path.name}.{ending}") for ending in ("tmp", "old"))
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir()
        files.write_durably(new / "model.safetensors", content)
        for name, extra in (more or {}).items():
            files.write_durably(new / name, extra)
        files.write_durably(new / "config.json", described)
        files.flush_directory(new)
    except OSError:
        shutil.rmtree(new, ignore_errors=True)
        raise
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
    new.rename(path)
    files.flush_directory(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def check_place(path: Path, *, overwrite: bool) -> None:
    """InputError unless an estimator can be saved in this directory."""
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file: name a directory")
    if path.is_dir() and any(path.iterdir()):
        if files.estimator_in(path) is None:
            raise InputError(f"{path} is not empty and holds no fitted estimator: name a new directory")
        if not overwrite:
            raise InputError(f"{path} already holds a fitted estimator: replace it with overwrite=True (--overwrite)")


def read(path: str | os.PathLike[str], kind: str) -> Saved:
    """Read what :func:`write` wrote. InputError where it is not there, another kind, or damaged."""
    path = Path(path)
    where = f"{path}/config.json"
    if not (path / "config.json").is_file():
        raise InputError(f"{path} holds no fitted estimator (there is no config.json): give the directory of a save")
    try:
        config = json.loads((path / "config.json").read_bytes())
        found, version = config.get("estimator"), config.get("format")
    except (ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"{where} is damaged ({error!r}): restore it, or fit again") from None
    if found is None:
        raise InputError(f"{path} holds no fitted estimator, but a language model: headgate generate reads it")
    if found != kind:
        raise InputError(f"{path} holds a {found}, not a {kind}: load it as what it is")
    if version != FORMAT:
        raise InputError(f"{where} has format {version!r}, this headgate reads {FORMAT}: use the one that wrote it")
    file = path / "model.safetensors"
    if not file.is_file():
        raise InputError(f"{file} is missing: restore it, or fit again")
    content = file.read_bytes()
    learned = {name: config.get(name) for name in ("estimator", "parameters", "facts")}
    if _checksum(learned, content) != config.get("sha256"):
        raise InputError(f"{where} or {file.name} is damaged, or not of the same save: restore both, or fit again")
    arrays = files.parse_arrays(content, file)
    with Saved(path, found, {}, {}, {}).damage():
        parameters, facts = (
            {name: _restored(value) for name, value in learned[part].items()} for part in ("parameters", "facts")
        )
    return Saved(path, found, parameters, facts, arrays)


def _checksum(learned: Mapping[str, Any], content: bytes) -> str:
    """Of what config.json says was learned, and of model.safetensors."""
    return hashlib.sha256(json.dumps(learned, sort_keys=True).encode() + content).hexdigest()


def _described(value: Any, name: str) -> Any:
    """A value as JSON. Arrays and dicts are marked as such, because JSON knows neither dtypes nor keys but strings."""
    if isinstance(value, np.random.Generator | np.random.RandomState):
        return None
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biufUO":
            raise InputError(f"{name} holds {value.dtype}, which cannot be saved: use numbers or strings, or pickle")
        return {"dtype": value.dtype.str, "values": _described(value.tolist(), name)}
    if isinstance(value, np.generic):
        return _described(value.item(), name)
    if isinstance(value, Mapping):
        return {"pairs": [[_described(k, name), _described(v, name)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return [_described(part, name) for part in value]
    if isinstance(value, float) and not np.isfinite(value):
        return {"float": repr(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise InputError(f"{name} holds a {type(value).__name__}, which cannot be saved: use numbers or strings, or pickle")


def _restored(value: Any) -> Any:
    if isinstance(value, list):
        return [_restored(part) for part in value]
    if not isinstance(value, dict):
        return value
    if "pairs" in value:
        return {_restored(k): _restored(v) for k, v in value["pairs"]}
    if "float" in value:
        return float(value["float"])
    return np.array(_restored(value["values"]), dtype=np.dtype(value["dtype"]))
