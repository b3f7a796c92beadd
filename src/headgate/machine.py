"""The processors that this process may use: affinity, quotas of control groups, OMP_NUM_THREADS."""

import functools
import os
from collections.abc import Iterator
from pathlib import Path

ROOT, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def control_groups(controller: str, root: Path = ROOT, own: Path = OWN) -> Iterator[tuple[int, Path]]:
    """The folders of the control groups that this process is in, innermost first, each with its version, 1 or 2."""
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
    """The processors' time that control groups leave to this process, in processors; infinite without a quota.

    Read once: at what it was when first asked for.
    """
    least = float("inf")
    for version, folder in control_groups("cpu", root, own):
        files = ["cpu.max"] if version == 2 else ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        try:
            time, period = " ".join((folder / name).read_text() for name in files).split()
        except (
            OSError,
            ValueError,
        ):  # a group without limits has no such files, and a container shows only some groups
            continue
        if time not in ("max", "-1"):
            least = min(least, int(time) / int(period))
    return least


def capped(threads: int) -> int:
    """A number of threads, at most as many as a quota of processor time keeps running: two for 1.5 processors."""
    limit = quota()
    return threads if threads <= limit else max(1, min(threads, int(limit + 0.5)))


def processors() -> int:
    """How many processors this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return capped(allowed)


def threads() -> int:
    """How many threads to compute with where nobody says: one for each processor, and at most OMP_NUM_THREADS."""
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return min(processors(), int(given)) if given.isdecimal() and int(given) else processors()
