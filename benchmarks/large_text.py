"""Measure ``headgate prepare`` on a text larger than its memory limit, and the first training steps on the result.

The text has ``--size`` MiB and 3,000 different characters from all of Unicode. Reported: the speed of preparing it, and
the peak resident memory of all processes of a command together, in excess of ``import torch``. Goals for 1 GiB on two
cores: 20 MB/s, 600 MiB. Linux only.

    python benchmarks/large_text.py [--size 1024] [--sequence-length 200] [--tokenizer characters]
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

MIB = 1 << 20
GOALS = {"MB/s": 20.0, "MiB": 600.0}


def make_text(file: Path, size: int) -> None:
    """Write at least ``size`` bytes of UTF-8: lines of words, most of them ASCII, of 3,000 different characters."""
    generator = np.random.default_rng(0)
    rare = generator.choice(np.r_[0xA1:0xD800, 0xE000:0x110000], 2_900, replace=False)
    alphabet = np.r_[np.frombuffer(b"\n" + b" " * 14 + bytes(range(33, 118)), np.uint8), rare].astype("<u4")
    weights = np.r_[np.full(100, 0.8 / 100), np.full(2_900, 0.2 / 2_900)].cumsum()
    with file.open("wb") as stream:
        while stream.tell() < size:
            drawn = np.searchsorted(weights, generator.random(MIB)).clip(max=2_999)
            stream.write(alphabet[drawn].tobytes().decode("utf-32-le").encode())


def watch(command: Sequence[str]) -> tuple[float, float]:
    """Run a command; return its seconds and the peak resident memory of it and its descendants, in MiB."""
    most, began = 0.0, time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            most = max(most, sum(resident(pid) for pid in family(process.pid)))
            time.sleep(0.02)
    if process.returncode:
        sys.exit(f"{' '.join(command)} exited with {process.returncode}")
    return time.perf_counter() - began, most


def family(pid: int) -> list[int]:
    """Return the ids of a process and all its descendants."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [pid, *(p for child in children for p in family(int(child)))]


def resident(pid: int) -> float:
    """Return the resident memory of a process in MiB; 0 if it has just ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=1024, help="MiB (1024)")
    parser.add_argument("--steps", type=int, default=200, help="training steps (200)")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--tokenizer", default="characters")
    parser.add_argument("--partition", default="sequential")
    options = parser.parse_args()
    program = [sys.executable, "-m", "headgate"]
    with tempfile.TemporaryDirectory() as folder:
        text, made, run = (f"{folder}/{name}" for name in ("text.txt", "made", "run"))
        make_text(Path(text), options.size * MIB)
        size = Path(text).stat().st_size
        _, base = watch([sys.executable, "-c", "import torch, time; time.sleep(0.2)"])
        seconds, most = watch(
            [*program, "prepare", text, "--out", made, "--processes", str(options.processes), "--quiet",
             "--tokenizer", options.tokenizer]
        )  # fmt: skip
        steps, most_training = watch(
            [*program, "train", made, "--out", run, "--max-steps", str(options.steps), "--quiet", "--partition",
             options.partition, "--sample-every", "0"]
        )  # fmt: skip
    rate = size / seconds / 1e6
    print(f"{size / MIB:,.0f} MiB of text; import torch alone has {base:.0f} MiB resident")
    print(
        f"prepare: {seconds:.1f} s, {rate:.1f} MB/s, {most:.0f} MiB resident: {most - base:.0f} more than import torch"
    )
    print(
        f"train, {options.steps} steps: {steps:.1f} s, {most_training:.0f} MiB resident: "
        f"{most_training - base:.0f} more than import torch"
    )
    met = rate >= GOALS["MB/s"] and max(most, most_training) - base <= GOALS["MiB"]
    print(f"{'PASS' if met else 'FAIL'}: {GOALS['MB/s']:.0f} MB/s, {GOALS['MiB']:.0f} MiB")
    sys.exit(not met)


if __name__ == "__main__":
    main()
