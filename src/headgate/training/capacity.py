"""Estimates of the memory that training needs and the machine has, so that a run bound to fail is refused early."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from headgate.errors import InputError
from headgate.machine import control_groups
from headgate.settings.run import Settings, TextSettings

NUMBER = 4  # bytes of a float32, and of an id


def available() -> int:
    """Return an upper bound on this process's memory in bytes, from the machine, control groups and resource limits."""
    bounds = [_address_space(), *_control_groups()]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        bounds.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") + _swap())
    return min(bounds)


def _swap() -> int:
    meminfo = Path("/proc/meminfo")
    lines = meminfo.read_text().splitlines() if meminfo.exists() else []
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("SwapTotal:"))


def _address_space() -> int:
    try:
        import resource
    except ModuleNotFoundError:  # this system has no such limits
        return sys.maxsize
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit


def _control_groups(root: Path = Path("/sys/fs/cgroup"), of: Path = Path("/proc/self/cgroup")) -> Iterator[int]:
    """Yield the memory limits of this process's control groups (v1 or v2) in bytes, swap included."""
    for version, folder in control_groups("memory", root, of):
        names = ("memory.max", "memory.swap.max") if version == 2 else ("memory.limit_in_bytes", "")
        limit, swap = (_number(folder / name) if name else None for name in names)
        if limit is not None:
            yield limit + (_swap() if swap is None else swap)


def _number(file: Path) -> int | None:
    """Read the number in a file; None if there is no such file or it says max."""
    try:
        text = file.read_text().strip()
    except OSError:  # the root group has no limit files, and a container shows only some groups
        return None
    return int(text) if text.isdigit() else None


def needed(settings: Settings, V: int) -> int:
    """Return a lower bound on the memory, in bytes, for training such a model on a vocabulary of V ids.

    Counts the weights, their gradients and optimizer state, and the outputs and gates of a batch, which backpropagation
    reads. Leaves out small tensors, the head's logits and checkpoints.
    """
    m, t = settings.model, settings.training
    H, E = m.hidden_size, m.embedding
    weights = V * E + 3 * H * (E or V) + 3 * H * H + (m.num_layers - 1) * 6 * H * H
    if m.head == "linear":
        weights += V * H
    kept = {"sgd": int(t.momentum > 0)}.get(t.optimizer, 2)
    activations = 4 * m.num_layers * H * t.sequence_length * (t.batch_size // t.accumulate)
    return NUMBER * (weights * (2 + kept) + activations)


def check_model(settings: Settings, V: int) -> None:
    """Raise InputError if the model cannot be trained in the available memory; a GPU's memory is not checked."""
    if settings.training.device != "cpu":
        return
    least, most = needed(settings, V), available()
    if least > most:
        raise InputError(
            f"training this model takes at least {in_gigabytes(least)} of memory, available are {in_gigabytes(most)}: "
            "use a smaller --hidden-size, fewer --num-layers, or a smaller --batch-size or --sequence-length"
        )


def check_text(settings: TextSettings, *, remedy: str) -> None:
    """Raise InputError if a plain file, as text and as ids, does not fit into the available memory."""
    path = Path(settings.corpus)
    files = [f for f in path.rglob("*") if f.suffix.lower() in (".txt", ".text", ".md")] if path.is_dir() else [path]
    size = sum(os.path.getsize(file) for file in files if file.is_file())
    if settings.limit or settings.normalize == "letters" or settings.corpus.lower().endswith((".gz", ".zip")):
        return  # the size after that is not known
    factor = {"bytes": NUMBER, "characters": 2}.get(settings.tokenizer, 0.5)  # a lower bound in any language
    if (least := int(size * factor)) > (most := available()):
        raise InputError(
            f"{settings.corpus} has {in_gigabytes(size)} and takes at least {in_gigabytes(least)} of memory when read "
            f"whole, available are {in_gigabytes(most)}: {remedy}"
        )


@contextlib.contextmanager
def enough(remedy: str) -> Iterator[None]:
    """Context manager: turn an out-of-memory error of Python, NumPy or torch into an InputError with the remedy."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        words = ("DefaultCPUAllocator", "out of memory", "Storage size calculation overflowed", "bad_alloc")
        if isinstance(error, MemoryError) or any(word in str(error) for word in words):
            raise InputError(f"there is not enough memory: {remedy}") from error
        raise


def in_gigabytes(size: int) -> str:
    """Format a size in bytes as gigabytes.

    >>> in_gigabytes(1_500_000_000), in_gigabytes(40_000_000)
    ('1.5 GB', '0.04 GB')
    """
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e9:.2g} GB"
