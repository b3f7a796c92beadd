"""A fitted estimator on disk, without pickle: config.json and model.safetensors in a directory.

config.json            kind of estimator, parameters, facts learned while fitting; versions; checksums of the files
model.safetensors      the weights, and the means and deviations for standardizing

An estimator is replaced inside its directory, so the directory may be a mount point or a link. The new files are
written next to the old ones, under names that contain their checksums. Renaming config.json into place makes the new
estimator the current one; after that the files get their final names. A reader uses the files whose checksums
config.json lists, under either name, and starts over if config.json has changed in the meantime.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headgate import __version__
from headgate.errors import InputError, one_line
from headgate.settings.earlier import translated
from headgate.storage import files
from headgate.storage.directory import foreign
from headgate.storage.lock import locked

FORMAT = 1  # of config.json; increased when older versions of headgate cannot read it
_REMEDY = "restore it, or fit again"
_PATIENCE = 60.0  # seconds that a save waits for another save to the same directory
_COMPANIONS = (
    "data.json",
    "log.jsonl",
    "curve.png",
    "forecast.png",
)  # the further files of an estimator whose config.json has no "files"
_NAME = r"\w[\w.-]*"  # of a file in the directory
_UNFINISHED = re.compile(r"\.(lock|room|config\.json\.tmp|.+\.[0-9a-f]{16})|lost\+found")  # of a running or killed save


@dataclass(frozen=True)
class Saved:
    """An estimator as read from disk: its kind, its parameters, and what it learned, as facts and arrays."""

    path: Path
    kind: str
    parameters: dict[str, Any]
    facts: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @contextlib.contextmanager
    def damage(self) -> Iterator[None]:
        """Context manager: turn errors from inconsistent contents into an InputError that names the directory."""
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
                f"config.json and model.safetensors in {self.path} do not match ({one_line(error)}): restore both"
            ) from None


@dataclass(frozen=True)
class Place:
    """A directory that :func:`claim` has reserved for a save."""

    path: Path
    room: Path  # a file that reserves the disk space

    def write(
        self,
        kind: str,
        parameters: Mapping[str, Any],
        facts: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray],
        more: Mapping[str, bytes] | None = None,
    ) -> None:
        """Save an estimator, as :func:`write` does."""
        content = {"model.safetensors": files.format_arrays(arrays), **(more or {})}
        learned = {
            "estimator": kind,
            "parameters": {name: _to_json(value, name) for name, value in parameters.items()},
            "facts": {name: _to_json(value, name) for name, value in facts.items()},
        }
        listed = {name: hashlib.sha256(value).hexdigest() for name, value in content.items()}
        config = {
            "format": FORMAT,
            "headgate": __version__,
            "sha256": _checksum(learned, content["model.safetensors"]),
            "files": listed,
            "replaced": sorted(_names(self.path) - content.keys()),  # files to remove
            **learned,
        }
        described = json.dumps(config, indent=1, ensure_ascii=False, allow_nan=False).encode(
            "utf-8", "backslashreplace"
        )
        self.room.unlink(missing_ok=True)
        try:
            for name, digest in listed.items():
                files.write_durably(self.path / _pending(name, digest), content[name])
            files.flush_directory(self.path)
            files.write_whole(self.path / "config.json", described)
        except BaseException:
            _recover(self.path)
            raise
        _recover(self.path)
        files.flush_directory(self.path)


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
    """Save an estimator in a new or empty directory; with ``overwrite``, replace the estimator that is there.

    The save is atomic, even if several processes save to the directory. Parameters and facts may contain JSON values,
    NumPy numbers and arrays, and dicts with such keys; anything else raises InputError. ``more`` maps the names of
    further files to their contents.
    """
    with claim(path, overwrite=overwrite, patience=_PATIENCE) as place:
        place.write(kind, parameters, facts, arrays, more)


@contextlib.contextmanager
def claim(path: str | os.PathLike[str], *, overwrite: bool, size: int = 0, patience: float = 0.0) -> Iterator[Place]:
    """Context manager: create a directory for a save, lock it, and reserve ``size`` bytes of disk space in it.

    Directories that were created but not used are removed. Raises InputError if the directory holds something else, if
    another process still uses it after ``patience`` seconds, or if there is not enough space.
    """
    path = Path(os.path.abspath(path))
    check_place(path, overwrite=overwrite)
    folder = Path(os.path.realpath(path))  # a link's target, which may not exist yet
    made: list[Path] = []
    try:
        with contextlib.ExitStack() as stack:
            while True:
                made += _make(folder)
                try:
                    stack.enter_context(locked(folder, name=".lock", patience=patience, keep=False))
                    break
                except FileNotFoundError:  # another process created it and has just removed it, unused
                    continue
                except OSError as error:
                    raise OSError(error.errno, error.strerror, str(path)) from None
            check_place(path, overwrite=overwrite)  # another process may have saved there in the meantime
            _recover(folder)
            room = folder / ".room"
            try:
                _keep(room, size, path)
                yield Place(folder, room)
            finally:
                room.unlink(missing_ok=True)
    finally:
        for unused in made:
            with contextlib.suppress(OSError):  # not empty, so it was used
                unused.rmdir()


def _make(folder: Path) -> list[Path]:
    """Create a directory and its missing parents, and return those that were created, deepest first."""
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _keep(room: Path, size: int, path: Path) -> None:
    """Reserve ``size`` bytes of disk space with a file; raises InputError if there is not enough."""
    if not size:
        return
    try:
        with room.open("wb") as stream:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(stream.fileno(), 0, size)
            else:
                stream.write(bytes(size))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise InputError(
            f"{path} cannot hold the {size / 1e6:.1f} MB of the estimator: {error.strerror}: free some space, or name "
            "another directory"
        ) from None


def _pending(name: str, digest: str) -> str:
    """Return the temporary name of a file, used until its estimator is the current one."""
    return f".{name}.{digest[:16]}"


def _names(folder: Path) -> set[str]:
    """Return the names of the files of the estimator in a directory."""
    try:
        listed = _listed(json.loads((folder / "config.json").read_bytes()))
    except (OSError, ValueError, AttributeError, RecursionError):  # no config.json, or not one of ours
        return set()
    return set(_COMPANIONS if listed is None else listed)


def _listed(config: Mapping[str, Any]) -> dict[str, str] | None:
    """Return the files that a config.json lists, with their checksums; None if it is too old to list them.

    Raises ValueError if the list is malformed.
    """
    if "files" not in config:
        return None
    listed = config["files"]
    if (
        not isinstance(listed, dict)
        or "model.safetensors" not in listed
        or not all(
            re.fullmatch(_NAME, name) and isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest)
            for name, digest in listed.items()
        )
    ):
        raise ValueError("files must map names, model.safetensors among them, to SHA-256 checksums")
    return listed


def _recover(folder: Path) -> None:
    """Give the files that config.json lists their final names, and remove the remains of saves that were killed."""
    listed, replaced = {}, []
    with contextlib.suppress(FileNotFoundError, ValueError, AttributeError, TypeError, RecursionError):
        config = json.loads((folder / "config.json").read_bytes())
        listed = _listed(config) or {}
        replaced = [name for name in config.get("replaced", ()) if re.fullmatch(_NAME, name) and name != "config.json"]
    for name, digest in listed.items():
        pending = folder / _pending(name, digest)
        if pending.exists() and _digest(folder / name) != digest and _digest(pending) == digest:
            pending.replace(folder / name)
    for name in replaced:
        (folder / name).unlink(missing_ok=True)
    for file in folder.iterdir():
        if _UNFINISHED.fullmatch(file.name) and file.name not in (".lock", ".room", "lost+found"):
            file.unlink(missing_ok=True)


def _digest(file: Path) -> str | None:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None


def check_place(path: Path, *, overwrite: bool) -> None:
    """Raise InputError unless an estimator can be saved in this directory."""
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file: name a directory")
    if foreign(path, _UNFINISHED) is None:
        return
    if files.estimator_in(path) is None:
        raise InputError(f"{path} is not empty and holds no fitted estimator: name a new directory")
    if not overwrite:
        raise InputError(f"{path} already holds a fitted estimator: replace it with overwrite=True (--overwrite)")


def companion(path: str | os.PathLike[str], name: str) -> bytes | None:
    """Return a further file of the estimator in a directory, or None if it has none of that name.

    Raises InputError if the file is damaged.
    """
    path, before = Path(path), None
    while True:
        described = (path / "config.json").read_bytes()
        listed = files.parse_json(described, path / "config.json", _listed, remedy=_REMEDY)
        if listed is None:
            return (path / name).read_bytes() if (path / name).is_file() else None
        if name not in listed:
            return None
        for file in (path / name, path / _pending(name, listed[name])):
            content = _content(file)
            if content is not None and hashlib.sha256(content).hexdigest() == listed[name]:
                return content
        if described == before:
            raise InputError(
                f"{path / name} is damaged or from a different save than config.json: restore it, or fit again"
            )
        before = described


def _content(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None


def read(path: str | os.PathLike[str], kind: str) -> Saved:
    """Read an estimator that :func:`write` saved; raises InputError if it is missing, damaged or of another kind."""
    path, before = Path(path), None
    if not (path / "config.json").is_file():
        raise InputError(
            f"{path} holds no fitted estimator (there is no config.json): name the directory of a saved estimator"
        )
    while True:
        described = (path / "config.json").read_bytes()
        try:
            return _read(path, described, kind)
        except InputError:
            if described == before:  # otherwise another save has just replaced it
                raise
        before = described


def _read(path: Path, described: bytes, kind: str) -> Saved:
    where = f"{path}/config.json"
    config, listed = files.parse_json(described, where, lambda c: (dict(c), _listed(c) or {}), remedy=_REMEDY)
    stored, version = config.get("estimator"), config.get("format")
    if stored is None:
        raise InputError(f"{path} holds a language model, not a fitted estimator: use headgate generate")
    if stored != kind:
        raise InputError(f"{path} holds a {stored}, not a {kind}: use {stored}.load")
    if version != FORMAT:
        raise InputError(
            f"{where} has format {version!r}, but this headgate reads {FORMAT}: use the version that wrote it"
        )
    file = path / "model.safetensors"
    pending = path / _pending(file.name, listed.get(file.name, ""))
    learned: dict[str, Any] = {name: config.get(name) for name in ("estimator", "parameters", "facts")}
    contents = [content for content in map(_content, (file, pending)) if content is not None]
    if not contents:
        raise InputError(f"{file} is missing: restore it, or fit again")
    content = next((c for c in contents if _checksum(learned, c) == config.get("sha256")), None)
    if content is None:
        raise InputError(f"{where} or {file.name} is damaged or from a different save: restore both, or fit again")
    arrays = files.parse_arrays(content, file)
    with Saved(path, stored, {}, {}, {}).damage():
        parameters, facts = (
            {name: _from_json(value) for name, value in learned[part].items()} for part in ("parameters", "facts")
        )
    return Saved(path, stored, translated(parameters), facts, arrays)


def _checksum(learned: Mapping[str, Any], content: bytes) -> str:
    """Return the checksum of the learned part of config.json together with model.safetensors."""
    return hashlib.sha256(json.dumps(learned, sort_keys=True).encode() + content).hexdigest()


def _to_json(value: Any, name: str) -> Any:
    """Convert a value to JSON, with arrays and dicts marked, as JSON has no dtypes and only strings as keys."""
    if isinstance(value, np.random.Generator | np.random.RandomState):
        return None
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biufUO":
            raise InputError(f"{name} holds {value.dtype}, which cannot be saved: use numbers or strings, or pickle")
        return {"dtype": value.dtype.str, "values": _to_json(value.tolist(), name)}
    if isinstance(value, np.generic):
        return _to_json(value.item(), name)
    if isinstance(value, Mapping):
        return {"pairs": [[_to_json(k, name), _to_json(v, name)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return [_to_json(part, name) for part in value]
    if isinstance(value, float) and not np.isfinite(value):
        return {"float": repr(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise InputError(f"{name} holds a {type(value).__name__}, which cannot be saved: use numbers or strings, or pickle")


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_json(part) for part in value]
    if not isinstance(value, dict):
        return value
    if "pairs" in value:
        return {_from_json(k): _from_json(v) for k, v in value["pairs"]}
    if "float" in value:
        return float(value["float"])
    return np.array(_from_json(value["values"]), dtype=np.dtype(value["dtype"]))
