"""The processors and the memory that a process may use."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from headgate import Runtime, machine, native
from headgate.runs.find import PRETRAINED
from headgate.runtime import runtime


def groups(tmp_path: Path, own: str, files: dict[str, str]) -> tuple[Path, Path]:
    """Make a tree of control groups and the file that names the groups of a process."""
    root, where = tmp_path / "cgroup", tmp_path / "own"
    root.mkdir()
    where.write_text(own)
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root, where


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/a/b\n", {"a/cpu.max": "150000 100000\n", "a/b/cpu.max": "max 100000\n"}, 1.5),
        ("0::/a/b\n", {"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "50000 100000\n"}, 0.5),
        ("0::/elsewhere\n", {"cpu.max": "200000 100000\n"}, 2.0),
        ("0::/a\n", {"a/cpu.max": "max 100000\n"}, float("inf")),
        ("4:cpu,cpuacct:/a\n0::/\n", {"cpu/a/cpu.cfs_quota_us": "70000\n", "cpu/a/cpu.cfs_period_us": "20000\n"}, 3.5),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, float("inf")),
        ("4:memory:/a\n", {"cpu/a/cpu.cfs_quota_us": "100\n", "cpu/a/cpu.cfs_period_us": "100\n"}, float("inf")),
        ("", {}, float("inf")),
    ],
)
def test_quota_is_the_least_of_the_groups(tmp_path: Path, own: str, files: dict[str, str], expected: float) -> None:
    assert machine.quota(*groups(tmp_path, own, files)) == expected


@pytest.mark.parametrize(("limit", "threads", "expected"), [(0.2, 4, 1), (1.4, 4, 1), (1.5, 4, 2), (8.0, 4, 4)])
def test_a_quota_bounds_threads_and_processors(
    monkeypatch: pytest.MonkeyPatch, limit: float, threads: int, expected: int
) -> None:
    monkeypatch.setattr(machine, "quota", lambda: limit)
    assert machine.capped(threads) == expected
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(threads)), raising=False)
    assert machine.processors() == expected


@pytest.mark.parametrize(
    ("given", "expected"), [("3", 3), ("2,4", 2), (" 1 ", 1), ("9", 5), ("0", 5), ("many", 5), ("", 5)]
)
def test_omp_num_threads_is_an_upper_bound(monkeypatch: pytest.MonkeyPatch, given: str, expected: int) -> None:
    monkeypatch.setattr(machine, "processors", lambda: 5)
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert machine.threads() == expected


@pytest.mark.parametrize(("limit", "given", "used"), [(1.0, 3, 1), (2.4, 3, 2), (float("inf"), 3, 3)])
def test_a_quota_bounds_the_threads_of_a_runtime(
    monkeypatch: pytest.MonkeyPatch, limit: float, given: int, used: int
) -> None:
    if native.load() is None:
        pytest.skip("the native library was not built")
    used_threads = []
    monkeypatch.setattr(machine, "quota", lambda: limit)
    monkeypatch.setattr(runtime, "NativeModel", lambda *_, threads, **__: used_threads.append(threads))
    Runtime.load(PRETRAINED / "voyage", threads=given)
    assert used_threads == [used]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs sched_setaffinity")
def test_affinity_is_an_upper_bound() -> None:
    code = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); from headgate import machine; " \
           "print(machine.threads())"  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "1"


def test_free_memory_is_a_plausible_number():
    free = machine.free_memory()
    assert free is None or 0 < free < 1 << 48


def test_free_memory_is_the_smallest_limit(monkeypatch):
    for name, value in (("_free_of_machine", 9), ("_free_of_groups", 7), ("_free_addresses", None)):
        monkeypatch.setattr(machine, name, lambda value=value: value)
    assert machine.free_memory() == 7
    monkeypatch.setattr(machine, "_free_of_groups", lambda: -1)
    assert machine.free_memory() == 0


def test_free_memory_of_version_2_control_groups(tmp_path):
    """Reclaimable file cache counts as free."""
    own = tmp_path / "cgroup"
    own.write_text("0::/a/b\n")
    (tmp_path / "root" / "a" / "b").mkdir(parents=True)
    for folder, limit, used, cached in (("a", "1000", "700", 50), ("a/b", "max", "600", 0)):
        for name, text in (("max", limit), ("current", used), ("stat", f"file 9\ninactive_file {cached}\n")):
            (tmp_path / "root" / folder / f"memory.{name}").write_text(text)
    assert machine._free_of_groups(tmp_path / "root", own) == 350
    assert machine._free_of_groups(tmp_path / "nowhere", own) is None
    assert machine._free_of_groups(tmp_path / "root", tmp_path / "nothing") is None


def test_free_memory_of_version_1_control_groups(tmp_path):
    own = tmp_path / "cgroup"
    own.write_text("5:cpu:/c\n4:hugetlb,memory:/a\n")
    folder = tmp_path / "root" / "memory" / "a"
    folder.mkdir(parents=True)
    for name, text in (("limit_in_bytes", "900"), ("usage_in_bytes", "300"), ("stat", "total_inactive_file 5\n")):
        (folder / f"memory.{name}").write_text(text)
    assert machine._free_of_groups(tmp_path / "root", own) == 605


def test_free_memory_of_a_limited_address_space():
    code = "from headgate import machine; print(machine.free_memory())"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 28, 1 << 28)),
    )
    assert 0 < int(ran.stdout) < 1 << 28
