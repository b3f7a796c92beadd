"""The processors and the memory that this process may use."""

import contextlib
import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from headgate.errors import InputError

ROOT, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def control_groups(controller: str, root: Path = ROOT, own: Path = OWN) -> Iterator[tuple[int, Path]]:
    """Yield the version (1 or 2) and folder of each control group that this process is in, innermost first."""
    for line in own.read_text().splitlines() if own.exists() else ():
        _, controllers, group = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / controller if controllers else root
        folder = top / group.lstrip("/")
        for place in (folder, *folder.parents):
            yield (1 if controllers else 2), place
            if place == top:
                break


@functools.cache
def quota(root: Path = ROOT, own: Path = OWN) -> float:
    """Return the CPU quota of this process's control groups in processors; infinity without a quota.

    It is read once: later changes are not noticed.
    """
    least = float("inf")
    for version, folder in control_groups("cpu", root, own):
        files = ["cpu.max"] if version == 2 else ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        try:
            time, period = " ".join((folder / name).read_text() for name in files).split()
        except (OSError, ValueError):  # a group without limits lacks these files; a container shows only some groups
            continue
        if time not in ("max", "-1"):
            least = min(least, int(time) / int(period))
    return least


def capped(threads: int) -> int:
    """Return ``threads``, or the CPU quota if that is lower: 2 for a quota of 1.5 processors."""
    limit = quota()
    return threads if threads <= limit else max(1, min(threads, int(limit + 0.5)))


def processors() -> int:
    """Return the number of processors that this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return capped(allowed)


def threads() -> int:
    """Return the default number of threads: one per processor, and at most OMP_NUM_THREADS."""
    limit = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return min(processors(), int(limit)) if limit.isdecimal() and int(limit) else processors()


def available_memory() -> int:
    """Return the memory limit of this process in bytes: the least of the machine's, its control groups' and its own."""
    bounds = [_address_space(), *_limits_of_groups()]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        bounds.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") + _swap())
    return min(bounds)


def free_memory() -> int | None:
    """Return how many bytes can still be allocated, the least over all limits; None if the system does not say."""
    left = [number for number in (_free_of_machine(), _free_of_groups(), _free_addresses()) if number is not None]
    return max(0, min(left)) if left else None


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


def _meminfo() -> dict[str, int]:
    """Return the entries of /proc/meminfo in bytes; on other systems, none."""
    file = Path("/proc/meminfo")
    lines = file.read_text().splitlines() if file.exists() else []
    return {name: int(value.split()[0]) << 10 for name, value in (line.split(":", 1) for line in lines)}


def _swap() -> int:
    return _meminfo().get("SwapTotal", 0)


def _free_of_machine() -> int | None:
    facts = _meminfo()
    return facts["MemAvailable"] + facts.get("SwapFree", 0) if "MemAvailable" in facts else None


def _address_space() -> int:
    """Return the limit of this process's address space in bytes; sys.maxsize without one."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows has no such limits
        return sys.maxsize
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit


def _free_addresses() -> int | None:
    limit = _address_space()
    if limit == sys.maxsize:
        return None
    try:
        return limit - int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def _limits_of_groups(root: Path = ROOT, own: Path = OWN) -> Iterator[int]:
    """Yield the memory limits, swap included, of the control groups (v1 or v2) that this process is in."""
    for version, folder in control_groups("memory", root, own):
        names = ("memory.max", "memory.swap.max") if version == 2 else ("memory.limit_in_bytes", "")
        limit, swap = (_number(folder / name) if name else None for name in names)
        if limit is not None:
            yield limit + (_swap() if swap is None else swap)


def _free_of_groups(root: Path = ROOT, own: Path = OWN) -> int | None:
    """Return the least memory that control groups leave, file caches counted as free; None without limits."""
    left = []
    for version, folder in control_groups("memory", root, own):
        names = ("max", "current") if version == 2 else ("limit_in_bytes", "usage_in_bytes")
        limit, used = (_number(folder / f"memory.{name}") for name in names)
        file = folder / "memory.stat"
        if limit is None or used is None or not file.exists():
            continue
        statistics = dict(line.split() for line in file.read_text().splitlines())
        cached = statistics.get("total_inactive_file") or statistics.get("inactive_file") or "0"
        left.append(limit - used + int(cached))
    return min(left, default=None)


def _number(file: Path) -> int | None:
    """Return the number in a file, or None if the file is missing or says max."""
    try:
        text = file.read_text().strip()
    except OSError:  # the root group has none, and a container shows only some groups
        return None
    return int(text) if text.isdigit() else None
