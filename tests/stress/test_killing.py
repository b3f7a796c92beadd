"""Training survives kills and full disks at random moments: a short run of benchmarks/killing.py."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
@pytest.mark.parametrize(("flags", "attempts"), [(["--kills", "12"], 12), (["--full-disk", "--attempts", "8"], 8)])
def test_nothing_is_lost(flags: list[str], attempts: int) -> None:
    """Runs in its own process: it forks, which is not safe after computing with torch."""
    command = [sys.executable, str(ROOT / "benchmarks" / "killing.py"), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode == 77:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split(" attempts in ")[0]) >= attempts
    assert "identical to an uninterrupted run byte for byte" in done.stdout
