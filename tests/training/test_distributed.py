"""Several processes train as one: same losses, same continuation, with any number of processes, even after a kill."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed

from headgate.errors import InputError
from headgate.runs.run_directory import RunDirectory
from headgate.settings.run import Settings
from headgate.text import corpus as corpora
from headgate.text.batches import Batches
from headgate.training.distributed import Processes
from headgate.training.loop import train
from headgate.training.report import Report

SMALL = Settings().replaced(
    corpus="verses",
    limit=3000,
    hidden_size=24,
    batch_size=8,
    sequence_length=7,
    epochs=2,
    report_every=1,
    sample_every=0,
    threads=1,
    dropout=0.0,
)


def start(path: Path, **changes) -> RunDirectory:
    settings = SMALL.replaced(**changes)
    return RunDirectory.create(path, settings, corpora.load(settings.text).tokenizer, {})


def one(path: Path, rank: int, count: int, store: str, changes: dict) -> None:
    """Run one process of ``count`` until training ends."""
    torch.set_num_threads(1)
    if count > 1:
        distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count)
    run = RunDirectory.open(path)
    run.settings = run.settings.replaced(**changes)
    processes = Processes(rank, count)
    train(run, corpora.load(run.settings.text), Report(run, quiet=True), processes=processes)
    processes.barrier()
    if count > 1:
        distributed.destroy_process_group()


def begin(path: Path, count: int, **changes) -> list[multiprocessing.Process]:
    spawn = multiprocessing.get_context("spawn")
    store = str(path.with_name(f"{path.name}-{time.monotonic_ns()}"))
    started = [spawn.Process(target=one, args=(path, rank, count, store, changes)) for rank in range(count)]
    for process in started:
        process.start()
    return started


def go(path: Path, count: int, **changes) -> RunDirectory:
    """Train the run in ``path`` with ``count`` processes."""
    started = begin(path, count, **changes)
    for process in started:
        process.join(120)
    codes = [process.exitcode for process in started]
    for process in started:
        process.kill()
    assert codes == [0] * count
    return RunDirectory.open(path)


def losses(run: RunDirectory) -> list[float]:
    return [entry["loss"] for entry in run.log()]


@pytest.mark.slow
@pytest.mark.parametrize(("partition", "other", "parts"), [("sequential", 2, 2), ("random", 1, 4)])
def test_two_processes_compute_what_one_does(tmp_path: Path, partition: str, other: int, parts: int) -> None:
    """50 steps agree to 1e-5, also with one or two processes that compute each batch in parts."""
    settings = {"partition": partition, "max_steps": 50}
    result = {}
    for name, count, accumulate in (("one", 1, 1), ("two", 2, 1), ("parts", other, parts)):
        start(tmp_path / name, accumulate=accumulate, **settings)
        result[name] = losses(go(tmp_path / name, count))
        assert len(result[name]) == 50
    assert result["one"][-1] < result["one"][0]
    for name in ("two", "parts"):
        np.testing.assert_allclose(result[name], result["one"], rtol=1e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["tied", "adaptive"])
def test_other_heads_with_two_processes(tmp_path: Path, head: str) -> None:
    """Two processes compute what one does, and it continues to the bit; most batches lack one of the clusters."""
    ids = np.minimum(np.random.default_rng(0).zipf(1.5, 4000), 1100)
    ids[-1100:] = np.arange(1, 1101)  # held out: all characters are in the vocabulary
    (tmp_path / "text.txt").write_text("".join(chr(0x4E00 + i) for i in ids), "utf-8")
    settings = {
        "corpus": str(tmp_path / "text.txt"), "limit": 0, "validation_fraction": 0.3, "head": head, "embedding": 24,
        "weight_decay": 0.1, "max_steps": 15,
    }  # fmt: skip
    for name in ("one", "two", "cut"):
        start(tmp_path / name, **settings)
    one(tmp_path / "one", 0, 1, "", {})
    one(tmp_path / "cut", 0, 1, "", {"max_steps": 6})
    one(tmp_path / "cut", 0, 1, "", {"max_steps": 15})
    alone = RunDirectory.open(tmp_path / "one")
    assert len(losses(alone)) == 15
    assert losses(alone)[-1] < losses(alone)[0]
    assert (tmp_path / "cut" / "model.safetensors").read_bytes() == (alone.path / "model.safetensors").read_bytes()
    if head == "adaptive":  # tied weights are one parameter, like any other for several processes
        two = go(tmp_path / "two", 2)
        np.testing.assert_allclose(losses(two), losses(alone), rtol=1e-5)
        for name, value in alone.weights().items():
            np.testing.assert_allclose(two.weights()[name], value, rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_two_processes_continue_to_the_bit(tmp_path: Path) -> None:
    """N steps = k + resume + (N - k), with dropout: each process has its own generator."""
    for name in ("whole", "cut"):
        start(tmp_path / name, dropout=0.4)
    whole = go(tmp_path / "whole", 2)
    cut = go(tmp_path / "cut", 2, max_steps=17)
    assert len(losses(cut)) == 17
    cut = go(tmp_path / "cut", 2)
    for name in ("model.safetensors", "best.safetensors"):
        assert (cut.path / name).read_bytes() == (whole.path / name).read_bytes(), name
    assert losses(cut) == losses(whole)


@pytest.mark.slow
def test_any_number_of_processes_can_continue(tmp_path: Path) -> None:
    start(tmp_path / "whole")
    whole = losses(go(tmp_path / "whole", 1))
    for first, then in ((1, 2), (2, 1)):
        path = tmp_path / f"from{first}to{then}"
        start(path)
        go(path, first, max_steps=19)
        np.testing.assert_allclose(losses(go(path, then)), whole, rtol=1e-5)


@pytest.mark.slow
def test_a_kill_loses_nothing(tmp_path: Path) -> None:
    """After kill -9 of one of two processes, both are restarted, resume the newest checkpoint and end the same."""
    settings = {"dropout": 0.4, "epochs": 10, "checkpoint_every": 10, "report_every": 1000}
    for name in ("whole", "killed"):
        start(tmp_path / name, **settings)
    whole, folder = go(tmp_path / "whole", 2), tmp_path / "killed" / "checkpoints"
    started = begin(tmp_path / "killed", 2)
    until = time.monotonic() + 60
    while not list(folder.glob("step-*/manifest.json")) and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(started[1].pid, signal.SIGKILL)
    started[0].join(5)
    started[0].kill()  # as torchrun does
    for process in started:
        process.join()
    step = RunDirectory.open(tmp_path / "killed").newest().step
    assert 0 < step < 10 * 45
    killed = go(tmp_path / "killed", 2)
    assert (killed.path / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in (whole.path / "checkpoints").iterdir())


@pytest.mark.slow
def test_torchrun(tmp_path: Path) -> None:
    """The command with two processes writes the same run, and a mistake is one sentence."""
    flags = [
        "verses",
        "--limit",
        "3000",
        "--hidden-size",
        "24",
        "--batch-size",
        "8",
        "--sequence-length",
        "7",
        "--epochs",
        "1",
        "--sample-every",
        "0",
        "--out",
    ]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "headgate", "train"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "timeout": 120}
    done = subprocess.run([*command, *flags, "run"], **options)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "2 processes of 1 thread" in done.stdout
    assert done.stdout.count("finished: ") == 1  # only one of them reports
    assert RunDirectory.open(tmp_path / "run").newest().step == 48
    done = subprocess.run([*command, *flags, "seven", "--batch-size", "7"], **options)
    assert done.returncode == 1  # of torchrun itself
    assert "headgate: a batch of 7 rows cannot be shared evenly by 2 processes in 1 parts each" in done.stderr
    assert not (tmp_path / "seven").exists()


def test_a_process_that_connects_to_none_exits() -> None:
    """So that torchrun can restart it, because a wait inside gloo never ends."""
    code = (
        "import time\nfrom headgate.training import distributed\ndistributed.CONNECTING = 0.5\n"
        "distributed.distributed.init_process_group = lambda backend: time.sleep(30)\n"
        "with distributed.Processes.joined():\n    pass"
    )
    environment = {**os.environ, "RANK": "0", "WORLD_SIZE": "2"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("Timeout (0:00:00.500000)!")


def test_a_group_of_one() -> None:
    with Processes.joined() as alone:
        assert (alone.rank, alone.world_size, alone.is_main) == (0, 1, True)
    state = torch.randn(2, 6, 5)
    assert alone.all_reduce(1.5, True, False) == (1.5, True, False)
    assert alone.broadcast(lambda: 2.5) == 2.5
    assert torch.equal(alone.all_gather_rows(state), state)
    assert torch.equal(alone.rows(state), state)


def test_rows_of_a_process_are_strided(monkeypatch: pytest.MonkeyPatch) -> None:
    state = torch.randn(2, 6, 5)
    parts = [Processes(rank, 3).rows(state) for rank in range(3)]
    assert torch.equal(parts[1], state[:, [1, 4]])
    monkeypatch.setattr(Processes, "all_gather", lambda self, value: parts)
    assert torch.equal(Processes(1, 3).all_gather_rows(parts[1]), state)


def test_seeds_of_processes_differ() -> None:
    """They differ for each process and step, also for processes added after the checkpoint."""
    seeds = {Processes(rank, 3).own_seed(5, step) for rank in range(3) for step in (7, 8)}
    assert len(seeds) == 6
    assert Processes(2, 3).own_seed(5, 8) == Processes(2, 4).own_seed(5, 8)
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(("batch", "count", "parts", "needed"), [(7, 2, 1, 2), (8, 3, 1, 3), (12, 2, 4, 8)])
def test_batches_that_cannot_be_shared_are_refused(batch: int, count: int, parts: int, needed: int) -> None:
    settings = SMALL.replaced(batch_size=batch, accumulate=parts).training
    message = (
        f"^a batch of {batch} rows cannot be shared evenly by {count} processes in {parts} parts each: "
        f"--batch-size must be a multiple of {needed}$"
    )
    with pytest.raises(InputError, match=message):
        Batches.of(np.arange(1000), settings, world_size=count)


def test_a_restarted_job_recognizes_its_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Under torchrun, a run of the same job is continued; any other is refused as usual."""
    from headgate.training.start import _same_job

    run = start(tmp_path / "run")
    assert not _same_job(run.path)
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("TORCHELASTIC_RUN_ID", "canal")):
        monkeypatch.setenv(name, value)
    assert not _same_job(run.path)
    run.facts["job"] = "canal"
    run.write_settings()
    assert _same_job(run.path)
    assert not _same_job(tmp_path / "none")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "other")
    assert not _same_job(run.path)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")  # torchrun's value if the job has no name
    assert not _same_job(run.path)
    assert json.loads((run.path / "config.json").read_text())["facts"]["job"] == "canal"
