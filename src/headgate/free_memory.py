"""The memory that this process can still take: of the machine, of its control group, of its address space."""

import os
from pathlib import Path

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]


def free_memory() -> int | None:
    """Bytes that can be allocated, the smallest of all limits; None where the system does not say."""
    found = [bytes_ for bytes_ in (_of_machine(), _of_group(), _of_addresses()) if bytes_ is not None]
    return max(0, min(found)) if found else None


def _of_machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        facts = {key: int(value.split()[0]) << 10 for key, value in (line.split(":", 1) for line in lines)}
        return facts["MemAvailable"] + facts.get("SwapFree", 0)
    except (OSError, ValueError, KeyError, IndexError):
        return None


def _of_group(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int | None:
    """What the limits of a container leave, its own and those around it."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return None
    left = []
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "memory" if controllers else root
        names = ("limit_in_bytes", "usage_in_bytes") if controllers else ("max", "current")
        folder = top / path.lstrip("/")
        for place in (folder, *folder.parents):
            if place == top.parent:
                break
            try:
                limit, used = (int((place / f"memory.{name}").read_text()) for name in names)
                statistics = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
            except (OSError, ValueError):  # "max": no limit
                continue
            cached = statistics.get("total_inactive_file") or statistics.get("inactive_file") or "0"
            left.append(limit - used + int(cached))
    return min(left, default=None)


def _of_addresses() -> int | None:
    limit = resource.getrlimit(resource.RLIMIT_AS)[0] if resource else -1
    if resource is None or limit == resource.RLIM_INFINITY:
        return None
    try:
        return limit - int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None
