"""``headgate train`` with signals, closed pipes, too little memory, directories in use and flags without effect."""

import errno
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headgate import machine
from headgate.cli.main import main
from headgate.models import language_model
from headgate.runs.run_directory import RunDirectory
from headgate.settings.run import Settings, TextSettings
from headgate.storage.lock import locked
from headgate.text import sources
from headgate.training import capacity, loop
from headgate.training.report import Report

TEXT = "the water came down the canal and the keeper let it through. " * 12
SMALL = [
    *(
        "--hidden-size",
        "12",
        "--embedding",
        "5",
        "--epochs",
        "2",
        "--batch-size",
        "4",
        "--sequence-length",
        "9",
        "--validation-fraction",
        "0.2",
    ),
    *("--sample-every", "2", "--sample-length", "8", "--threads", "1"),
]


@pytest.fixture(autouse=True)
def _in_a_folder_with_a_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "canal.txt").write_text(TEXT)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def _guarded() -> Iterator[None]:
    """Keep unhandled signals from ending the tests."""
    before = {s: signal.signal(s, lambda *_: None) for s in (signal.SIGHUP, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], object]], None]:
    """Return at_step(n, act), which calls ``act`` right after step n of any training."""

    def arrange(n: int, act: Callable[[], object]) -> None:
        before = Report.step

        def step(self: Report, number: int, *arguments: float) -> None:
            before(self, number, *arguments)
            if number == n:
                act()

        monkeypatch.setattr(Report, "step", step)

    return arrange


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*arguments: str) -> str:
        assert main(list(arguments)) == 2
        error = capsys.readouterr().err
        assert error.startswith("headgate: ")
        assert error.count("\n") == 1
        return error

    return run


@pytest.mark.usefixtures("_guarded")
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_a_signal_saves_the_run(at_step, capsys: pytest.CaptureFixture[str], number: signal.Signals) -> None:
    at_step(5, lambda: os.kill(os.getpid(), number))
    assert main(["train", "canal.txt", "--out", "run", *SMALL]) == 128 + number
    assert "interrupted at step 6, saved; continue with:" in capsys.readouterr().err
    assert RunDirectory.open(Path("run")).newest().step == 6


def test_an_ignored_hangup_stays_ignored(at_step) -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        at_step(5, lambda: os.kill(os.getpid(), signal.SIGHUP))
        assert main(["train", "canal.txt", "--out", "run", "--quiet", *SMALL]) == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_interrupt_stops_at_once(at_step, capsys: pytest.CaptureFixture[str]) -> None:
    at_step(5, lambda: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)])
    assert main(["train", "canal.txt", "--out", "run", "--checkpoint-every", "2", *SMALL]) == 130
    assert "stopped without saving; continue from the newest checkpoint with:" in capsys.readouterr().err
    assert RunDirectory.open(Path("run")).newest().step == 4


@pytest.mark.slow
def test_a_closed_terminal_saves_the_run(tmp_path: Path) -> None:
    child, terminal = pty.fork()
    if not child:
        command = [sys.executable, "-m", "headgate", "train", "canal.txt", "--out", "run", *SMALL, "--epochs", "9999"]
        os.execv(sys.executable, command)
    said = b""
    while b"step" not in said:
        said += os.read(terminal, 1000)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGHUP
    assert RunDirectory.open(tmp_path / "run").newest().step > 0


def test_a_reader_that_goes_away_does_not_stop_training(
    at_step, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    at_step(5, lambda: os.close(reading))
    with os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert main(["train", "canal.txt", "--out", "run", *SMALL]) == 0
    error = capsys.readouterr().err
    assert error.startswith("headgate: standard output can no longer be written (Broken pipe); training continues, and")
    assert error.count("\n") == 1
    assert RunDirectory.open(Path("run")).log()[-1]["epoch"] == 2


@pytest.mark.slow
def test_a_closed_pipe_does_not_stop_training(tmp_path: Path) -> None:
    code = f"{sys.executable} -m headgate train canal.txt --out run {' '.join(SMALL)} --epochs 40; echo code $? >&2"
    done = subprocess.run(f"({code}) | head -n 2", shell=True, capture_output=True, text=True)
    assert "code 0\n" in done.stderr
    assert done.stdout.count("\n") == 2
    assert "Traceback" not in done.stderr
    assert RunDirectory.open(tmp_path / "run").log()[-1]["epoch"] == 40


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a device that is always full")
def test_standard_output_on_a_full_disk_does_not_stop_training(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "headgate", "train", "canal.txt", "--out", "run", *SMALL]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0
    assert done.stderr == (
        "headgate: standard output can no longer be written (No space left on device); training continues, and run has "
        "the reports\n"
    )


# Memory


@pytest.mark.parametrize(
    "size",
    [
        ("--hidden-size", "2000000"),
        ("--embedding", "2000000000"),
        ("--num-layers", "2000000000"),
        ("--hidden-size", "2147483647"),
    ],
)
def test_a_model_larger_than_memory_is_refused(fails, size: tuple[str, str]) -> None:
    message = fails("train", "canal.txt", *SMALL, *size)
    assert "training this model takes at least " in message
    assert "use a smaller --hidden-size" in message
    assert not Path("runs").exists()


def test_a_large_model_that_would_fit_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings().replaced(hidden_size=512, num_layers=2, embedding=64, sequence_length=35)
    model = language_model.LanguageModel(settings.model, 100)
    weights = 4 * sum(p.numel() for p in model.parameters())
    assert 0.9 * 4 * weights < capacity.needed(settings, 100) < 4 * weights + 4 * 32 * 35 * 512 * 2 * 4
    monkeypatch.setattr(capacity, "available_memory", lambda: capacity.needed(settings, 100))
    capacity.check_model(settings, 100)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    ],
)
def test_running_out_of_memory_leaves_nothing(fails, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def build(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(loop, "_step", build)
    message = fails("train", "canal.txt", "--quiet", *SMALL)
    assert "there is not enough memory: use a smaller --hidden-size" in message
    assert not Path("runs").exists()


def test_other_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*_: object, **__: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(loop, "_step", build)
    with pytest.raises(RuntimeError, match="a defect"):
        main(["train", "canal.txt", "--quiet", *SMALL])
    assert not Path("runs").exists()


def test_an_interrupt_before_the_first_step_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Report, "begin", begin)
    Path("runs").mkdir()
    assert main(["train", "canal.txt", "--quiet", *SMALL]) == 130
    assert list(Path("runs").iterdir()) == []  # the folder existed before


def test_a_text_larger_than_memory_is_refused(fails, monkeypatch: pytest.MonkeyPatch) -> None:
    with open("large.txt", "wb") as file:
        file.truncate(1 << 40)  # a hole
    message = fails("train", "large.txt", *SMALL)
    assert "large.txt has 1,099.5 GB and takes at least 2,199.0 GB of memory" in message
    assert "large.txt --out DIR) and train on DIR, or use only a part with --limit" in message
    assert not Path("runs").exists()
    monkeypatch.setattr(sources, "available_memory", lambda: 1 << 20)
    sources.check_size(TextSettings(corpus="large.txt", limit=5), remedy="")  # the part that is used is small


def test_control_groups_limit_the_memory(tmp_path: Path) -> None:
    of = tmp_path / "cgroup"
    (tmp_path / "v2" / "a" / "b").mkdir(parents=True)
    of.write_text("0::/a/b\n")
    (tmp_path / "v2" / "a" / "memory.max").write_text("5000\n")
    (tmp_path / "v2" / "a" / "memory.swap.max").write_text("100\n")
    (tmp_path / "v2" / "a" / "b" / "memory.max").write_text("max\n")
    assert list(machine._limits_of_groups(tmp_path / "v2", of)) == [5100]
    (tmp_path / "v1" / "memory").mkdir(parents=True)
    (tmp_path / "v1" / "memory" / "memory.limit_in_bytes").write_text("7000\n")
    of.write_text("3:cpu:/\n2:memory:/\n")
    assert list(machine._limits_of_groups(tmp_path / "v1", of)) == [7000 + machine._swap()]
    assert list(machine._limits_of_groups(tmp_path / "v1", tmp_path / "none")) == []


# Directories


def test_a_name_in_use_by_another_training_is_not_taken(capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs/canal").mkdir(parents=True)
    with locked(Path("runs/canal")):
        assert main(["train", "canal.txt", *SMALL]) == 0
    assert "runs/canal-2" in capsys.readouterr().out
    assert [p.name for p in Path("runs/canal").iterdir()] == ["lock"]


@pytest.mark.slow
def test_two_trainings_at_once_take_two_names() -> None:
    command = [sys.executable, "-m", "headgate", "train", "canal.txt", "--quiet", *SMALL]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
    assert [process.communicate()[1] for process in both] == [b"", b""]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(p.name for p in Path("runs").iterdir()) == ["canal", "canal-2"]


def test_an_out_in_use_by_another_training_is_refused(fails) -> None:
    Path("mine").mkdir()
    with locked(Path("mine")):
        assert "mine is in use by process" in fails("train", "canal.txt", "--out", "mine", *SMALL)
    assert [p.name for p in Path("mine").iterdir()] == ["lock"]


def test_a_directory_of_other_files_is_left_unchanged(fails) -> None:
    Path("letters").mkdir()
    Path("letters/one.txt").write_text("dear")
    assert "is not empty and holds no run" in fails("train", "canal.txt", "--out", "letters", *SMALL)
    assert [p.name for p in Path("letters").iterdir()] == ["one.txt"]


def test_an_out_inside_a_file_is_one_sentence(fails) -> None:
    assert "Not a directory" in fails("train", "canal.txt", "--out", "canal.txt/run", *SMALL)


def test_a_removed_working_directory_is_one_sentence(fails) -> None:
    Path("gone").mkdir()
    os.chdir("gone")
    os.rmdir("../gone")
    assert "the current directory no longer exists: change to another" in fails("train", "../canal.txt", *SMALL)


def test_a_relative_link_leads_to_the_run() -> None:
    Path("far").mkdir()
    Path("runs").mkdir()
    Path("runs/canal").symlink_to("../far")
    assert main(["train", "canal.txt", "--quiet", *SMALL]) == 0
    assert Path("far/config.json").exists()
    assert main(["train", "canal.txt", "--out", "runs/canal", "--overwrite", "--quiet", *SMALL]) == 0
    assert Path("runs/canal").is_symlink()


def test_a_link_to_nothing_is_one_sentence(fails) -> None:
    Path("gone").symlink_to("nowhere")
    assert "gone" in fails("train", "canal.txt", "--out", "gone", *SMALL)


def test_a_report_that_cannot_be_written_leaves_the_log_intact(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert main(["train", "canal.txt", "--out", "run", "--quiet", *SMALL]) == 0
    run = RunDirectory.open(Path("run"))
    before = Path("run/log.jsonl").read_bytes()

    class HalfWritten:
        def __init__(self, file: object) -> None:
            self.file = file

        def __enter__(self) -> "HalfWritten":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, text: str) -> None:
            self.file.write(text[:5])
            self.file.flush()
            raise OSError(errno.ENOSPC, "No space left on device")

    real = Path.open
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda self, *a, **k: HalfWritten(real(self, *a, **k)))
        with pytest.raises(OSError, match="No space"):
            run.append("log.jsonl", '{"epoch": 4}\n')
    assert Path("run/log.jsonl").read_bytes() == before


# Options


def test_a_prefix_does_not_swallow_the_text(fails, tmp_path: Path) -> None:
    assert main(["train", "--sample-prefixes", "the", "canal.txt", "--quiet", *SMALL]) == 0
    run = RunDirectory.open(Path("runs/canal"))
    assert run.settings.training.sample_prefixes == ("the",)
    assert run.settings.text.corpus == str(tmp_path / "canal.txt")
    several = ["--sample-prefixes", "the", "--sample-prefixes", "keep"]
    assert main(["train", "canal.txt", "--quiet", "--out", "two", *several, *SMALL]) == 0
    assert RunDirectory.open(Path("two")).settings.training.sample_prefixes == ("the", "keep")


def test_samples_are_drawn_independently(tmp_path: Path) -> None:
    same = [
        "--sample-prefixes",
        "the",
        "--sample-prefixes",
        "the",
        "--sample-length",
        "60",
        "--sample-temperature",
        "1",
    ]
    assert main(["train", "canal.txt", "--quiet", "--out", "run", *SMALL, *same]) == 0
    samples = Path("run/samples.txt").read_text()
    first, second = samples[samples.rindex("epoch 2: ", 0, samples.rindex("epoch 2: ")) :].split("epoch 2: ")[1:]
    assert first != second


def test_a_prefix_may_have_bytes_that_are_not_utf_8() -> None:
    assert main(["train", "canal.txt", "--quiet", "--out", "run", "--sample-prefixes", "th\udcff", *SMALL]) == 0
    assert "epoch 2: th\\udcff" in Path("run/samples.txt").read_text("utf-8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--momentum", "0.9"], "--momentum does nothing unless --optimizer is sgd: omit it, or set that"),
        (["--plateau", "2"], "--plateau does nothing unless --schedule is plateau"),
        (["--vocab-size", "300"], "--vocab-size does nothing unless --tokenizer is subwords"),
        (["--min-frequency", "2", "--tokenizer", "bytes"], "--min-frequency does nothing unless --tokenizer is"),
        (["--no-unknown", "--tokenizer", "bytes"], "--unknown does nothing unless --tokenizer is characters"),
        (["--no-random-offset", "--partition", "random"], "--random-offset does nothing unless --partition is"),
        (["--sample-every", "0", "--sample-length", "9"], "--sample-length does nothing unless --sample-every is"),
        (["--overwrite"], "--overwrite replaces the run in --out: give --out, and omit --resume"),
        (["--overwrite", "--resume", "--out", "run"], "--overwrite replaces the run in --out"),
    ],
)
def test_options_without_effect_are_refused(fails, options: list[str], message: str) -> None:
    assert message in fails("train", "canal.txt", *options)


def test_options_without_effect_may_have_their_default_value() -> None:
    options = ["--momentum", "0", "--random-offset", "--partition", "random", "--min-frequency", "1"]
    assert main(["train", "canal.txt", "--quiet", *options, *SMALL]) == 0
