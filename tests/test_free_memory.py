"""How much memory is free: never more than any limit leaves."""

import resource
import subprocess
import sys

from headgate import free_memory as module
from headgate.free_memory import free_memory


def test_it_is_some_of_the_machine_s():
    found = free_memory()
    assert found is None or 0 < found < 1 << 48


def test_the_smallest_limit_counts(monkeypatch):
    for name, value in (("_of_machine", 9), ("_of_group", 7), ("_of_addresses", None)):
        monkeypatch.setattr(module, name, lambda value=value: value)
    assert free_memory() == 7
    monkeypatch.setattr(module, "_of_group", lambda: -1)
    assert free_memory() == 0


def test_limits_of_groups_version_two(tmp_path):
    """What is in the system's cache, and can be given up, is free."""
    own = tmp_path / "cgroup"
    own.write_text("0::/a/b\n")
    (tmp_path / "root" / "a" / "b").mkdir(parents=True)
    for folder, limit, used, cached in (("a", "1000", "700", 50), ("a/b", "max", "600", 0)):
        for name, text in (("max", limit), ("current", used), ("stat", f"file 9\ninactive_file {cached}\n")):
            (tmp_path / "root" / folder / f"memory.{name}").write_text(text)
    assert module._of_group(tmp_path / "root", own) == 350
    assert module._of_group(tmp_path / "nowhere", own) is None
    assert module._of_group(tmp_path / "root", tmp_path / "nothing") is None


def test_limits_of_groups_version_one(tmp_path):
    own = tmp_path / "cgroup"
    own.write_text("5:cpu:/c\n4:hugetlb,memory:/a\n")
    folder = tmp_path / "root" / "memory" / "a"
    folder.mkdir(parents=True)
    for name, text in (("limit_in_bytes", "900"), ("usage_in_bytes", "300"), ("stat", "total_inactive_file 5\n")):
        (folder / f"memory.{name}").write_text(text)
    assert module._of_group(tmp_path / "root", own) == 605


def test_an_address_space_that_is_limited():
    code = "from headgate.free_memory import free_memory; print(free_memory())"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 28, 1 << 28)),
    )
    assert 0 < int(ran.stdout) < 1 << 28
