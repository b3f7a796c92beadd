"""Helpers of the benchmarks: describe the machine, time functions in turn, print a verdict and JSON."""

import argparse
import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from headgate import native


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), platform.processor())


def fma_rate(threads: int, steps: int = 500_000) -> float:
    """Measure the float32 operations per second that ``threads`` threads reach at this moment, using registers only."""
    library, lanes = native.load(), {"baseline": 4, "AVX2": 8, "AVX-512": 16, "AMX": 16}[native.level()]
    began = time.perf_counter()
    library.headgate_peak_float(threads, native.ctypes.c_int64(steps))
    return threads * 2 * 12 * lanes * steps / (time.perf_counter() - began)


def fma_peak(threads: int) -> float:
    """Return the best of several measurements."""
    return max(fma_rate(threads) for _ in range(20))


def machine(threads: int) -> str:
    return (
        f"{processor()}, {native.level()}, {threads} threads, FMA peak {fma_peak(threads) / 1e9:.0f} GFLOP/s, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def start(doc: str) -> argparse.Namespace:
    """Parse --threads and --rounds, seed torch, set its threads and print the machine."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    print(machine(options.threads), f"\nmedians of {options.rounds} rounds, in turn\n")
    return options


def in_turn(functions: Sequence[Callable[[], object]], rounds: int, seconds: float = 0.15) -> list[list[float]]:
    """Return seconds per call, (functions, rounds); in each round each function is called for about ``seconds``."""
    calls = []
    for function in functions:
        function()
        began = time.perf_counter()
        function()
        calls.append(max(1, int(seconds / max(time.perf_counter() - began, 1e-9))))
    durations: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds):
        for times, function, n in zip(durations, functions, calls, strict=True):
            function()  # warm up again after the other functions
            began = time.perf_counter()
            for _ in range(n):
                function()
            times.append((time.perf_counter() - began) / n)
    return durations


def ratio(theirs: Iterable[float], ours: Iterable[float]) -> float:
    """Return the speed-up of ours over theirs: the median over rounds."""
    return statistics.median(t / o for t, o in zip(theirs, ours, strict=True))


def geometric_mean(values: Iterable[float]) -> float:
    return math.exp(statistics.fmean(math.log(v) for v in values))


def conclude(goals: dict[str, tuple[float, float]], **facts: object) -> None:
    """Print the verdict on goals {name: (measured, least)}, then everything as JSON."""
    missed = {name: pair for name, pair in goals.items() if not pair[0] >= pair[1]}
    print()
    for name, (measured, least) in missed.items():
        print(f"missed: {name}: {measured:.2f}, goal {least:g}")
    print(f"{'FAIL' if missed else 'PASS'}: {len(goals) - len(missed)} of {len(goals)} goals met")
    print(json.dumps({**facts, "goals": {name: {"measured": m, "least": g} for name, (m, g) in goals.items()}}))
