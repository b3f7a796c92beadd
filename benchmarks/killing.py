"""Kill training at random moments, or fill its disk, and check that nothing is lost.

    python benchmarks/killing.py [--kills 200]                   # kill -9
    python benchmarks/killing.py --full-disk [--attempts 200]    # fill the disk (Linux, if it can mount one)

A run writes a checkpoint every third step, is interrupted again and again, and continues with --resume. After every
interruption the newest complete checkpoint must load and must not be older than before. At the end the weights, the
checkpoint, log.jsonl (except tokens_per_second) and samples.txt must equal those of an uninterrupted run byte for byte,
and there must be no other files. On a full disk, training must fail with one sentence and exit code 2. A run that
finishes early is compared, and a new one is started. Exit code: 0 if nothing was lost, 1 if something was, 77 if no
disk can be mounted.
"""

import argparse
import contextlib
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch  # noqa: F401 - imported once; must not compute here, so that its threads start in the children
from matplotlib.backends import backend_agg  # noqa: F401

from headgate.cli.main import main as headgate
from headgate.runs.run_directory import RunDirectory, is_run
from headgate.text import corpus  # noqa: F401

FLAGS = shlex.split(
    "verses --limit 3000 --hidden-size 16 --embedding 64 --batch-size 8 --sequence-length 7 --dropout 0.3 "
    "--epochs 4 --checkpoint-every 3 --report-every 1 --sample-every 1 --sample-length 9 --threads 1 "
    "--quiet"
)
SHARE = 0.25  # of an uninterrupted run's time: twice the start-up, so that cuts fall both into it and after it
DISK = 3_500_000  # bytes: twice what the run needs with one checkpoint


class LostError(Exception):
    """A check that failed; the message says which."""


def begin(path: Path, errors: Path, *flags: str) -> int:
    """Start or resume the run in ``path`` in a new process and return its id."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        with errors.open("w", buffering=1) as sys.stderr:
            source = ["--resume"] if is_run(path) else FLAGS
            code = headgate(["train", *source, "--quiet", "--out", str(path), *flags])
    finally:
        os._exit(code)


def ended(child: int, seconds: float) -> int | None:
    """Return the exit code of a process, or None if it still runs after ``seconds``."""
    until = time.monotonic() + seconds
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            return None
        time.sleep(min(0.001, max(until - time.monotonic(), 0)))


def kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def cut_at(path: Path, child: int) -> str:
    """Describe the moment at which a run was interrupted, judging by its files."""
    folder = path / "checkpoints"
    if not is_run(path):
        return "before the run existed"
    if list(folder.glob(".step-*")):
        return "while a checkpoint was written"
    whole = list(folder.glob("step-*"))
    if len(whole) > 1 or list(path.glob(".*.tmp")):
        return "while a checkpoint replaced another"
    if not (path / "lock").exists() or f"process {child} " not in (path / "lock").read_text():
        return "while it started"
    if not whole:
        return "in the steps before the first checkpoint"
    lengths = json.loads((whole[0] / "state.json").read_bytes())["lengths"]
    if any((path / name).exists() and (path / name).stat().st_size > size for name, size in lengths.items()):
        return "in steps after a checkpoint"
    return "with nothing to clean up"


def newest_step(path: Path, before: int) -> int:
    """Return the step of the newest complete checkpoint; raise LostError if it is older than ``before`` or damaged."""
    if not is_run(path):
        if before:
            raise LostError(f"the run was at step {before} and is gone")
        return 0
    run = RunDirectory.open(path)
    newest = run.newest()
    step = newest.step if newest else 0
    if step < before:
        raise LostError(f"the newest complete checkpoint is from step {step}, it was from step {before}")
    if (path / "model.safetensors").exists():
        run.weights()  # raises if they are damaged
    unfinished = [p.name for p in (path / "checkpoints").glob(".step-*")]
    if len(unfinished) > 1:
        raise LostError(f"{', '.join(unfinished)}: a start has not removed unfinished checkpoints")
    return step


def contents(path: Path) -> dict[str, bytes | str]:
    """Return the files of a run without what depends on time: speeds in the log, its length, pictures, the lock."""
    files: dict[str, bytes | str] = {}
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        name = str(file.relative_to(path))
        if file.name == "log.jsonl":
            entries = [json.loads(line) for line in file.read_text().splitlines()]
            files[name] = json.dumps([{k: v for k, v in e.items() if k != "tokens_per_second"} for e in entries])
        elif file.name == "state.json":
            state = json.loads(file.read_bytes())
            files[name] = json.dumps({**state, "lengths": state["lengths"]["samples.txt"]})
        else:
            files[name] = "" if file.name in ("curve.png", "lock", "manifest.json") else file.read_bytes()
    return files


def compare(path: Path, whole: Path) -> None:
    """Raise LostError with the names of the files in which two finished runs differ."""
    actual, expected = contents(path), contents(whole)
    if names := sorted(n for n in actual.keys() | expected.keys() if actual.get(n) != expected.get(n)):
        raise LostError(f"different from an uninterrupted run: {', '.join(names)}")


def finish(path: Path, errors: Path, whole: Path) -> None:
    """Resume a run until its end and compare it."""
    if code := ended(begin(path, errors), 120):
        raise LostError(f"resuming exited with {code}: {errors.read_text()[-2000:]}")
    compare(path, whole)


def cut_again_and_again(
    whole: Path, path: Path, cuts: int, cut: Callable[[int, float], tuple[str, bool]]
) -> tuple[Counter[str], int]:
    """Interrupt and resume a run in ``path``, ``cuts`` times; compare it and start a new one whenever it is finished.

    ``cut(step, seconds)`` resumes the run after ``step``, interrupts it within ``seconds``, and returns a description
    of what happened and True if the attempt counts. Returns the number of attempts per description, and the number of
    runs compared.
    """
    errors, began = path.with_suffix(".errors"), time.monotonic()
    if code := ended(begin(whole, errors), 120):
        raise LostError(f"the uninterrupted run exited with {code}: {errors.read_text()[-2000:]}")
    last, seconds = newest_step(whole, 1), SHARE * (time.monotonic() - began)
    counted, runs, step, left = Counter[str](), 0, 0, cuts
    while left:
        became, was_cut = cut(step, seconds)
        counted[became] += 1
        left -= was_cut
        step = newest_step(path, step)
        if step == last or not left:
            finish(path, errors, whole)
            shutil.rmtree(path)
            runs, step = runs + 1, 0
    return counted, runs


def killed(folder: Path, kills: int, chance: random.Random) -> tuple[Counter[str], int]:
    """Interrupt a run with kill -9 at random moments."""
    path, errors = folder / "killed", folder / "killed.errors"

    def cut(_: int, seconds: float) -> tuple[str, bool]:
        child = begin(path, errors)
        code = ended(child, chance.uniform(0, seconds))
        if code is None:
            kill(child)
            return cut_at(path, child), True
        if code:
            raise LostError(f"resuming exited with {code}: {errors.read_text()[-2000:]}")
        return "finished before the kill", False

    return cut_again_and_again(folder / "whole", path, kills, cut)


def filled(folder: Path, disk: Path, attempts: int, chance: random.Random) -> tuple[Counter[str], int]:
    """Leave random space on the disk, at once or after a random time; kill one attempt in five as well."""
    path, errors, ballast = disk / "full", folder / "full.errors", disk / "ballast"

    def fill() -> None:
        room = os.statvfs(disk)
        size = room.f_bavail * room.f_frsize - chance.randrange(DISK * 2 // 3)
        with ballast.open("wb") as file, contextlib.suppress(OSError):  # the run may have used the space first
            os.posix_fallocate(file.fileno(), 0, max(size, 1))

    def cut(step: int, seconds: float) -> tuple[str, bool]:
        moment = chance.choice([0.0, chance.uniform(0, seconds)])
        if not moment:
            fill()
        child = begin(path, errors, "--max-steps", str(step + chance.randrange(3, 60)))
        code = ended(child, moment)
        if moment and code is None:
            fill()
        if code is None:
            code = ended(child, chance.uniform(0, seconds) if chance.random() < 0.2 else 120)
        if code is None:
            kill(child)
        ballast.unlink(missing_ok=True)
        message = errors.read_text() if errors.exists() else ""
        if code is None:
            return "killed before it noticed the full disk", True
        if code == 0 and not message:
            return "there was enough space", True
        one_sentence = message.startswith("headgate: ") and message.count("\n") == 1
        if code != 2 or not one_sentence or "free some space" not in message:
            raise LostError(f"on a full disk, training exited with {code}: {message[-2000:]}")
        return "a checkpoint did not fit" if "the checkpoint of step" in message else "something else did not fit", True

    return cut_again_and_again(folder / "whole", path, attempts, cut)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--full-disk", action="store_true", help="fill the disk instead")
    parser.add_argument("--attempts", type=int, default=200, help="for --full-disk")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--alone", action="store_true", help=argparse.SUPPRESS
    )  # in its own namespace, so that the mount disappears with the process
    options = parser.parse_args()
    if options.full_disk and not options.alone:
        alone = ["unshare", "--user", "--map-root-user", "--mount"]
        if not shutil.which("unshare") or subprocess.run([*alone, "true"], stderr=subprocess.DEVNULL).returncode:
            print("no disk can be mounted: unshare --user --map-root-user --mount does not work")
            return 77
        return subprocess.run([*alone, sys.executable, *sys.argv, "--alone"]).returncode

    chance, began = random.Random(options.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            if options.full_disk:
                disk = folder / "disk"
                disk.mkdir()
                subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", disk], check=True)
                try:
                    counted, runs = filled(folder, disk, options.attempts, chance)
                finally:
                    subprocess.run(["umount", disk], check=True)
            else:
                counted, runs = killed(folder, options.kills, chance)
        except LostError as error:
            print(f"LOST, with --seed {options.seed}: {error}")
            return 1
    print(f"{sum(counted.values())} attempts in {time.monotonic() - began:.0f} s:")
    for description, count in counted.most_common():
        print(f"  {count:4}  {description}")
    print(f"{runs} runs finished, identical to an uninterrupted run byte for byte")
    return 0


if __name__ == "__main__":
    sys.exit(main())
