"""Training is killed, and its disk filled, at random moments: nothing is lost. benchmarks/killing.py, but shorter."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
@pytest.mark.parametrize(("flags", "attempts"), [(["--kills", "12"], 12), (["--full-disk", "--attempts", "8"], 8)])
def test_nothing_is_lost(flags: list[str], attempts: int) -> None:
    """In a process of its own, because it forks, and what has computed with torch must not."""
    command = [sys.executable, str(ROOT / "benchmarks" / "killing.py"), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode == 77:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split(" attempts in ")[0]) >= attempts
    assert "all the bytes of one left alone" in done.stdout
