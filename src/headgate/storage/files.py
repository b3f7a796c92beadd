"""Files that are written as a whole or not at all, and arrays in them. NumPy only; no torch, no pickle."""

import contextlib
import hashlib
import json
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import load, save

from headgate.errors import InputError

T = TypeVar("T")


def write_durably(file: Path, content: bytes) -> None:
    """Write a file and flush it to the disk."""
    with file.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def write_whole(file: Path, content: bytes) -> None:
    """Write a file: all of it or nothing, and what was there before then stays. A link stays, and leads to it.

    An OSError names the file.
    """
    real = Path(os.path.realpath(file))
    if real.exists() and not real.is_file():
        write_durably(real, content)  # a pipe or a device cannot be renamed over
        return
    temporary = real.with_name(f".{real.name}.tmp")
    try:
        write_durably(temporary, content)
        temporary.replace(real)
    except BaseException as error:
        with contextlib.suppress(OSError):  # there is none, or no directory
            temporary.unlink()
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(file)) from None
        raise


def format_json(value: Any, *, indent: int | None = None) -> bytes:
    """JSON in UTF-8. What that cannot hold, such as a byte of a file's name, is escaped.

    >>> format_json({"路": "caf\\udce9"}).decode()
    '{"路": "caf\\\\udce9"}'
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False) + ("\n" if indent else "")
    return text.encode("utf-8", "backslashreplace")


def parse_json(content: bytes | str, where: str | Path, check: Callable[[Any], T], *, remedy: str) -> T:
    """Read JSON that may be damaged, and return what ``check`` makes of it.

    ``check`` may raise any error that an unexpected value leads to. Raises InputError that names ``where``, the reason
    and the remedy.
    """
    try:
        return check(json.loads(content))
    except InputError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = str(error) if type(error) is ValueError else repr(error)
        raise InputError(f"{where} is damaged ({reason}): {remedy}") from None


def file_sha256(file: Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def flush_directory(path: Path) -> None:
    """fsync a directory so that renames in it survive a power failure."""
    if os.name == "posix":  # elsewhere a directory cannot be opened, and renames are durable without
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def format_arrays(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Named arrays as the bytes of a safetensors file."""
    return save({name: np.ascontiguousarray(value) for name, value in arrays.items()})


def parse_arrays(content: bytes, file: Path) -> dict[str, np.ndarray]:
    """Named arrays from the bytes of a safetensors file. InputError that names the file where they are damaged."""
    try:
        return _load(content)
    except (SafetensorError, ValueError, KeyError, OverflowError, struct.error) as error:
        raise InputError(f"{file} is damaged ({error}): restore it, or train again") from None


def _load(content: bytes) -> dict[str, np.ndarray]:
    """Named arrays; bfloat16, which NumPy lacks, as the same numbers in float32."""
    header = content[8 : 8 + int.from_bytes(content[:8], "little")]
    if b'"BF16"' not in header:
        arrays: dict[str, np.ndarray] = load(content)
        return arrays
    arrays = {}
    for name, tensor in deserialize(content):
        half = tensor["dtype"] == "BF16"
        value = np.frombuffer(tensor["data"], "<u2" if half else {"F32": "<f4"}[tensor["dtype"]])
        value = (value.astype(np.uint32) << 16).view(np.float32) if half else value.copy()
        arrays[name] = value.reshape(tensor["shape"])
    return arrays


def estimator_in(folder: Path) -> str | None:
    """The kind of estimator that was saved in a directory; None where it is none, or cannot be read."""
    try:
        kind = json.loads((folder / "config.json").read_bytes())["estimator"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return kind if isinstance(kind, str) else None
