"""Time calls on an idle machine, on a busy one, and under a quota of one processor, with one and several threads.

Busy: one process computes on each processor. Limited: a control group with a quota of one processor (needs root;
otherwise that column is missing and the reason is printed). Every figure is a median in milliseconds; conditions,
thread counts and versions take turns. --against times another installation as well.

    python benchmarks/contention.py [--threads 2] [--rounds 3] [--against OTHER/.venv/bin/python]
"""

import argparse
import contextlib
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

SECONDS = 2.0  # each call is repeated for this long per round, and at least three times
TRAIN = shlex.split(
    "train voyage --limit 47000 --epochs 2 --hidden-size 256 --embedding 64 --sequence-length 35 "
    "--batch-size 32 --sample-every 0 --quiet"
)
QUOTA = 100_000  # microseconds of processor time, per period of the same length


def cases(threads: int) -> dict[str, Callable[[], object]]:
    """Return the calls to time, by name."""
    import torch
    from torch import nn

    from headgate import GRU, LanguageModel, Runtime
    from headgate.models.language_model import numpy_weights
    from headgate.settings.run import ModelSettings
    from headgate.text.characters import CharacterTokenizer

    torch.manual_seed(0)
    torch.set_num_threads(threads)

    def layer(kind: Callable[..., nn.Module], T: int, B: int, I: int, H: int) -> Callable[[], object]:  # noqa: E741
        gru, x = kind(I, H), torch.randn(T, B, I)

        def call() -> None:
            gru.zero_grad()
            gru(x)[0].sum().backward()

        return call

    characters = "".join(chr(0x4E00 + i) for i in range(64))
    tokenizer, settings = CharacterTokenizer(characters, characters[0]), ModelSettings(hidden_size=256, embedding=64)
    model = LanguageModel(settings, tokenizer.vocabulary_size)
    runtime = Runtime(numpy_weights(model), settings, tokenizer, threads=threads)  # uses fewer under a quota

    return {
        "torch.nn.GRU, B = 1": layer(nn.GRU, 35, 1, 32, 256),
        "GRU, B = 1": layer(GRU, 35, 1, 32, 256),
        "GRU, B = 32": layer(GRU, 35, 32, 32, 256),
        "writing 5,000 characters": lambda: runtime.generate(characters[1], 5000),
    }


def training(threads: int) -> float:
    """Return the milliseconds per 1,000 tokens, from the log of `headgate train`."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "headgate", *TRAIN, "--threads", str(threads), "--out", f"{folder}/run"]
        subprocess.run(command, check=True, capture_output=True)
        last = Path(folder, "run", "log.jsonl").read_text().splitlines()[-1]
    return 1e6 / float(json.loads(last)["tokens_per_second"])


def child(threads: int) -> None:
    """Time each case and print {case: milliseconds} as JSON."""
    medians = {"headgate train, 1,000 tokens": training(threads)}
    for name, call in cases(threads).items():
        call()
        times: list[float] = []
        end = time.perf_counter() + SECONDS
        while len(times) < 3 or time.perf_counter() < end:
            began = time.perf_counter()
            call()
            times.append(1e3 * (time.perf_counter() - began))
        medians[name] = statistics.median(times)
    print(json.dumps(medians))


@contextlib.contextmanager
def busy() -> Iterator[list[str]]:
    """Context manager: keep every processor of this process busy; yield an empty prefix for commands."""
    hogs = [
        subprocess.Popen([sys.executable, "-c", f"import os\nos.sched_setaffinity(0, [{p}])\nwhile True: pass"])
        for p in os.sched_getaffinity(0)
    ]
    try:
        yield []
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


@contextlib.contextmanager
def limited() -> Iterator[list[str]]:
    """Context manager: create a control group with a quota of one processor; yield a prefix for commands in it.

    Raises OSError without permission.
    """
    first, root = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")
    group = (first if first.is_dir() else root) / f"headgate-{os.getpid()}"
    group.mkdir()
    try:
        if first.is_dir():
            (group / "cpu.cfs_period_us").write_text(str(QUOTA))
            (group / "cpu.cfs_quota_us").write_text(str(QUOTA))
        else:
            (group / "cpu.max").write_text(f"{QUOTA} {QUOTA}")
        yield ["sh", "-c", f'echo $$ >{group}/cgroup.procs && exec "$@"', "sh"]
    finally:
        group.rmdir()


CONDITIONS = {"idle": lambda: contextlib.nullcontext([]), "busy": busy, "limited": limited}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", metavar="PYTHON", help="the interpreter of another installation")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child)
        return
    versions = {"this": sys.executable, **({"other": options.against} if options.against else {})}
    figures: dict[tuple[str, str, str, int], list[float]] = {}
    conditions = dict(CONDITIONS)
    for _ in range(options.rounds):
        for condition in list(conditions):
            try:
                with conditions[condition]() as start:
                    for version, python in versions.items():
                        for threads in (1, options.threads):
                            command = [*start, python, __file__, "--child", str(threads)]
                            done = subprocess.run(command, check=True, capture_output=True, text=True)
                            for name, value in json.loads(done.stdout).items():
                                figures.setdefault((name, version, condition, threads), []).append(value)
            except OSError as error:
                print(f"no figures for {condition}: {error}")
                del conditions[condition]
    names = list(dict.fromkeys(key[0] for key in figures))
    print(
        f"{'milliseconds':<28}{'':<8}" + "".join(f"{f'{c}, {t}':>12}" for c in conditions for t in (1, options.threads))
    )
    for name in names:
        for version in versions:
            medians = (
                statistics.median(figures[name, version, c, t]) for c in conditions for t in (1, options.threads)
            )
            print(f"{name:<28}{version:<8}" + "".join(f"{v:12.2f}" for v in medians))
    print(json.dumps([[*key, statistics.median(values)] for key, values in figures.items()]))


if __name__ == "__main__":
    main()
