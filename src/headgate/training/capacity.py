"""How much memory a training needs at the least, and how much there is: what is certain to fail is refused before."""

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
    """The bytes that this process can have at most: what the machine, its control groups and its own limits leave."""
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
    except ModuleNotFoundError:  # no such limits there
        return sys.maxsize
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit


def _control_groups(root: Path = Path("/sys/fs/cgroup"), of: Path = Path("/proc/self/cgroup")) -> Iterator[int]:
    """The limits of the control groups (v1 or v2) that this process is in, swap included."""
    for version, folder in control_groups("memory", root, of):
        names = ("memory.max", "memory.swap.max") if version == 2 else ("memory.limit_in_bytes", "")
        limit, swap = (_number(folder / name) if name else None for name in names)
        if limit is not None:
            yield limit + (_swap() if swap is None else swap)


def _number(file: Path) -> int | None:
    """The number in a file; None where there is no such file, or it says max."""
    try:
        text = file.read_text().strip()
    except OSError:  # the root of the groups has none, and a container shows only some
        return None
    return int(text) if text.isdigit() else None


def needed(settings: Settings, V: int) -> int:
    """A lower bound for the bytes of training such a model on a vocabulary of V ids.

    Weights, their gradients and what the optimizer keeps of each, and of each unit in a batch its output and gates,
    which going back through time reads. Rounded down: small tensors, the head's logits and a checkpoint come on top.
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
    """InputError where a model cannot be trained in the memory that there is. Says nothing of a GPU's."""
    if settings.training.device != "cpu":
        return
    least, most = needed(settings, V), available()
    if least > most:
        raise InputError(
            f"training this model takes at least {in_gigabytes(least)} of memory, there are {in_gigabytes(most)}: "
            "take a smaller --hidden-size, fewer --num-layers, or a smaller --batch-size or --sequence-length"
        )


def check_text(settings: TextSettings, *, remedy: str) -> None:
    """InputError where a plain file cannot be read whole in the memory that there is, as text and as ids."""
    path = Path(settings.corpus)
    files = [f for f in path.rglob("*") if f.suffix.lower() in (".txt", ".text", ".md")] if path.is_dir() else [path]
    size = sum(os.path.getsize(file) for file in files if file.is_file())
    if settings.limit or settings.normalize == "letters" or settings.corpus.lower().endswith((".gz", ".zip")):
        return  # what it comes to is not known
    factor = {"bytes": NUMBER, "characters": 2}.get(settings.tokenizer, 0.5)  # at the least, whatever its language
    if (least := int(size * factor)) > (most := available()):
        raise InputError(
            f"{settings.corpus} has {in_gigabytes(size)} and takes at least {in_gigabytes(least)} of memory when it is "
            f"read whole, there are {in_gigabytes(most)}: {remedy}"
        )


@contextlib.contextmanager
def enough(remedy: str) -> Iterator[None]:
    """Turn running out of memory, in Python, NumPy or torch, into an InputError that names the remedy."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        words = ("DefaultCPUAllocator", "out of memory", "Storage size calculation overflowed", "bad_alloc")
        if isinstance(error, MemoryError) or any(word in str(error) for word in words):
            raise InputError(f"there is not enough memory: {remedy}") from error
        raise


def in_gigabytes(size: int) -> str:
    """A size for people.

    >>> in_gigabytes(1_500_000_000), in_gigabytes(40_000_000)
    ('1.5 GB', '0.04 GB')
    """
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e9:.2g} GB"
