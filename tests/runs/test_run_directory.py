"""Run directories survive a full disk, a kill between any two operations, and damaged files."""

import contextlib
import errno
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.errors import InputError
from headgate.runs.checkpoint import FORMAT as CHECKPOINT_FORMAT
from headgate.runs.checkpoint import Checkpoint
from headgate.runs.run_directory import FORMAT, RunDirectory, is_run
from headgate.settings.run import ModelSettings, Settings, TextSettings, TrainingSettings
from headgate.storage import files
from headgate.storage.lock import locked
from headgate.text.characters import ByteTokenizer, CharacterTokenizer

quick = settings(deadline=None, max_examples=80)
SETTINGS = Settings(
    TextSettings(corpus="verses", validation_fraction=0.25),
    ModelSettings(hidden_size=3, num_layers=2),
    TrainingSettings(batch_size=5, sample_prefixes=("分开", "b")),
)
TOKENIZER = CharacterTokenizer.from_text("分开 ab")
FACTS = {"corpus_sha256": "00ff", "published": [{"epoch": 7}], "recipe": None}


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """Disable fsync; a separate test checks what is flushed and when."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def checkpoint(step: int, **state) -> Checkpoint:
    """Return a checkpoint whose values all identify its step."""
    return Checkpoint(
        step,
        {
            "weights": {"head.weight": np.full((2, 3), step, np.float32), "head.bias": np.arange(5, dtype=np.float32)},
            "optimizer": {"0.step": np.array(step, np.int64), "0.exp_avg": np.full((4, 1), -step, np.float64)},
            "best": {"head.weight": np.full((2, 3), step + 0.5, np.float32)},
            "random": {"torch": np.arange(7, dtype=np.uint8)},
            "carried": {},
        },
        {"step": step, "loss": step / 3, **state},
    )


def assert_same(actual: Checkpoint | None, expected: Checkpoint) -> None:
    assert actual is not None
    assert (actual.step, actual.state) == (expected.step, expected.state)
    assert actual.arrays.keys() == expected.arrays.keys()
    for group, arrays in expected.arrays.items():
        assert actual.arrays[group].keys() == arrays.keys()
        for name, value in arrays.items():
            assert actual.arrays[group][name].dtype == value.dtype
            np.testing.assert_array_equal(actual.arrays[group][name], value)


def make(path: Path) -> RunDirectory:
    return RunDirectory.create(path, SETTINGS, TOKENIZER, FACTS)


def tree(path: Path) -> dict[str, bytes]:
    """Return the contents of all files below a directory."""
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def leftovers(path: Path) -> list[str]:
    return [str(p.relative_to(path)) for p in path.rglob("*") if p.name.endswith(".tmp")]


def weight_of(run: RunDirectory, *, best: bool = False) -> float:
    [value] = np.unique(run.weights(best=best)["head.weight"])
    return float(value)


# Creating and opening


def test_create_and_open(tmp_path):
    made = make(tmp_path / "runs" / "a")
    opened = RunDirectory.open(tmp_path / "runs" / "a")
    for run in (made, opened):
        assert run.settings == SETTINGS
        assert run.tokenizer.to_json() == TOKENIZER.to_json()
        assert run.facts == FACTS
        assert run.log() == []
        assert run.recover() is None
    assert is_run(tmp_path / "runs" / "a")
    assert sorted(tree(tmp_path / "runs" / "a")) == ["config.json", "tokenizer.json"]


def test_config_json_is_readable(tmp_path):
    make(tmp_path / "a")
    text = (tmp_path / "a" / "config.json").read_text("utf-8")
    assert json.loads(text)["format"] == FORMAT == 2
    assert '\n    "model": {\n      "hidden_size": 3,\n' in text
    assert "分开" in text
    assert text.endswith("}\n")


def test_changed_settings_are_written(tmp_path):
    run = make(tmp_path / "a")
    run.settings = run.settings.replaced(epochs=9)
    run.write_settings()
    assert RunDirectory.open(tmp_path / "a").settings.training.epochs == 9
    assert leftovers(tmp_path) == []


def test_a_bytes_tokenizer_round_trip(tmp_path):
    RunDirectory.create(tmp_path / "a", SETTINGS, ByteTokenizer(), {})
    assert isinstance(RunDirectory.open(tmp_path / "a").tokenizer, ByteTokenizer)


def test_a_run_may_be_created_in_an_empty_directory(tmp_path):
    (tmp_path / "a").mkdir()
    make(tmp_path / "a")
    assert is_run(tmp_path / "a")


def test_a_used_directory_is_refused(tmp_path):
    make(tmp_path / "a").save(checkpoint(3))
    before = tree(tmp_path)
    with pytest.raises(
        InputError, match=f"^{tmp_path}/a already holds a run: continue it with --resume, replace it with --overwrite$"
    ):
        make(tmp_path / "a")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_directory_with_other_files_is_refused(tmp_path, overwrite):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(
        InputError, match=f"^{tmp_path} is not empty and holds no run: name a new directory with --out$"
    ):
        RunDirectory.create(tmp_path, SETTINGS, TOKENIZER, FACTS, overwrite=overwrite)
    assert tree(tmp_path) == {"notes.txt": b"mine"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_is_refused(tmp_path, overwrite):
    (tmp_path / "a").write_text("mine")
    with pytest.raises(InputError, match=f"^{tmp_path}/a is a file: name a directory for the run with --out$"):
        RunDirectory.create(tmp_path / "a", SETTINGS, TOKENIZER, FACTS, overwrite=overwrite)
    assert tree(tmp_path) == {"a": b"mine"}


def test_overwriting_removes_the_run_and_nothing_else(tmp_path):
    run = make(tmp_path)
    run.save(checkpoint(3))
    run.append("log.jsonl", "{}\n")
    run.append("samples.txt", "text\n")
    (tmp_path / "curve.png").write_bytes(b"picture")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "config.json").write_text("mine too")
    RunDirectory.create(tmp_path, SETTINGS.replaced(hidden_size=4), ByteTokenizer(), {"new": 1}, overwrite=True)
    assert sorted(tree(tmp_path)) == ["config.json", "lock", "more/config.json", "notes.txt", "tokenizer.json"]
    assert (tmp_path / "notes.txt").read_text() == "mine"
    opened = RunDirectory.open(tmp_path)
    assert (opened.settings.model.hidden_size, opened.facts, opened.recover()) == (4, {"new": 1}, None)


def test_a_directory_without_a_run_is_not_opened(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        assert not is_run(path)
        with pytest.raises(
            InputError,
            match=rf"^{path} holds no run \(there is no config\.json\): name a directory that headgate train created$",
        ):
            RunDirectory.open(path)


# Log, samples, weights


def test_log_and_samples_grow(tmp_path):
    run = make(tmp_path)
    run.append("log.jsonl", '{"step": 1, "loss": null}\n')
    run.append("log.jsonl", '{"step": 2, "loss": 0.5}\n')
    run.append("samples.txt", "分开\n")
    assert run.log() == [{"step": 1, "loss": None}, {"step": 2, "loss": 0.5}]
    assert (tmp_path / "samples.txt").read_bytes() == "分开\n".encode()


@pytest.mark.parametrize("line", [b'{"step": 2, "lo', b"\xff\xfe\n", b"[" * 100_000], ids=["cut", "bytes", "deep"])
def test_a_damaged_log_is_named(tmp_path, line):
    run = make(tmp_path)
    run.append("log.jsonl", '{"step": 1}\n')
    with (tmp_path / "log.jsonl").open("ab") as file:
        file.write(line)
    with pytest.raises(InputError, match=rf"^{tmp_path}/log\.jsonl is damaged \(.*\): remove the broken line$"):
        run.log()


def test_weights_before_the_first_checkpoint(tmp_path):
    run = make(tmp_path)
    with pytest.raises(
        InputError, match=rf"^{tmp_path} has no model\.safetensors: it has not reached a checkpoint yet$"
    ):
        run.weights()
    with pytest.raises(
        InputError, match=rf"^{tmp_path} has no best\.safetensors: the run has no held-out text; omit --best$"
    ):
        run.weights(best=True)


def test_a_checkpoint_updates_the_weights_of_the_run(tmp_path):
    run = make(tmp_path)
    run.save(checkpoint(3))
    result = run.weights()
    assert result.keys() == {"head.weight", "head.bias"}
    np.testing.assert_array_equal(result["head.weight"], np.full((2, 3), 3, np.float32))
    np.testing.assert_array_equal(result["head.bias"], np.arange(5, dtype=np.float32))
    assert weight_of(run, best=True) == 3.5
    run.use_best()
    assert weight_of(run) == 3.5


def test_no_best_weights_unless_saved(tmp_path):
    run = make(tmp_path)
    saved = checkpoint(3)
    del saved.arrays["best"]
    run.save(saved)
    assert weight_of(run) == 3
    assert not (tmp_path / "best.safetensors").exists()
    assert_same(run.recover(), saved)


# Checkpoints


def test_save_and_recover(tmp_path):
    run = make(tmp_path)
    run.save(checkpoint(3, position=8))
    for _ in range(2):  # recovery can be repeated
        assert_same(RunDirectory.open(tmp_path).recover(), checkpoint(3, position=8))


def test_exactly_one_checkpoint_is_kept(tmp_path):
    run = make(tmp_path)
    for step in (9, 10, 1_000):
        run.save(checkpoint(step))
        assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == [f"step-{step:09d}"]
        assert weight_of(run) == step
        assert leftovers(tmp_path) == []
    assert_same(run.recover(), checkpoint(1_000))


def test_a_checkpoint_of_the_same_step_replaces_it(tmp_path):
    run = make(tmp_path)
    run.save(checkpoint(3, position=1))
    run.save(checkpoint(3, position=2))
    assert_same(run.recover(), checkpoint(3, position=2))


def test_the_manifest_lists_the_files(tmp_path):
    run = make(tmp_path)
    run.save(checkpoint(3))
    folder = tmp_path / "checkpoints" / "step-000000003"
    manifest = json.loads((folder / "manifest.json").read_bytes())
    assert (manifest["format"], manifest["step"]) == (CHECKPOINT_FORMAT, 3)
    assert {name: fact["size"] for name, fact in manifest["files"].items()} == {
        name: len(content) for name, content in tree(folder).items() if name != "manifest.json"
    }


def test_log_and_samples_are_truncated_to_the_checkpoint(tmp_path):
    run = make(tmp_path)
    run.append("log.jsonl", '{"step": 1}\n')
    run.append("samples.txt", "分开\n")
    run.save(checkpoint(3))
    run.append("log.jsonl", '{"step": 2}\n')
    run.append("samples.txt", "不分开")
    run.write("model.safetensors", b"newer, and broken")
    assert_same(run.recover(), checkpoint(3))
    assert (tmp_path / "log.jsonl").read_text() == '{"step": 1}\n'
    assert (tmp_path / "samples.txt").read_text("utf-8") == "分开\n"
    assert weight_of(run) == 3
    run.append("log.jsonl", '{"step": 4}\n')
    assert run.log() == [{"step": 1}, {"step": 4}]


def test_a_log_shorter_than_in_the_checkpoint_is_kept(tmp_path):
    run = make(tmp_path)
    run.append("log.jsonl", '{"step": 1}\n{"step": 2}\n')
    run.save(checkpoint(3))
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n')
    assert_same(run.recover(), checkpoint(3))
    assert run.log() == [{"step": 1}]


def test_without_a_checkpoint_log_and_samples_start_over(tmp_path):
    run = make(tmp_path)
    run.append("log.jsonl", '{"step": 1}\n')
    run.append("samples.txt", "text\n")
    assert run.recover() is None
    assert sorted(tree(tmp_path)) == ["config.json", "tokenizer.json"]


def test_leftover_temporary_directories_are_cleared(tmp_path):
    run = make(tmp_path)
    run.save(checkpoint(3))
    unfinished = tmp_path / "checkpoints" / ".step-000000007.tmp"
    unfinished.mkdir()
    (unfinished / "weights.safetensors").write_bytes(b"half")
    assert_same(run.recover(), checkpoint(3))
    assert not unfinished.exists()


def test_the_remains_of_a_first_checkpoint_are_cleared(tmp_path):
    run = make(tmp_path)
    unfinished = tmp_path / "checkpoints" / ".step-000000007.tmp"
    unfinished.mkdir()
    (unfinished / "weights.safetensors").write_bytes(b"half")
    assert run.recover() is None
    assert not unfinished.exists()


@pytest.mark.parametrize("name", [".DS_Store", "step-000000009", "notes.txt"])
def test_a_stray_file_among_the_checkpoints_does_no_harm(tmp_path, name):
    run = make(tmp_path)
    run.save(checkpoint(3))
    (tmp_path / "checkpoints" / name).write_bytes(b"stray")
    assert_same(run.recover(), checkpoint(3))
    (tmp_path / "checkpoints" / name).write_bytes(b"stray")
    run.save(checkpoint(7))
    assert_same(run.recover(), checkpoint(7))


def test_files_are_flushed_before_they_are_renamed(tmp_path, monkeypatch):
    run = make(tmp_path)
    flushed: set[int] = set()  # inodes since the last rename
    renamed: list[tuple[str, bool]] = []  # name, and True if the directory of checkpoints was flushed before
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.add(os.fstat(descriptor).st_ino))

    def watch(name):
        original = getattr(Path, name)

        def watched(path, target):
            assert {p.stat().st_ino for p in (path, *path.rglob("*"))} <= flushed
            renamed.append((Path(target).name, (tmp_path / "checkpoints").stat().st_ino in flushed))
            flushed.clear()
            return original(path, target)

        monkeypatch.setattr(Path, name, watched)

    watch("rename")
    watch("replace")
    run.save(checkpoint(3))
    assert renamed == [("step-000000003", False), ("best.safetensors", True), ("model.safetensors", False)]


# A full disk


def full_at(monkeypatch, k: int, *, from_then_on: bool):
    """Context manager: writing the k-th file (counted from 1) fails halfway, and with from_then_on all later ones."""
    write, count = files.write_durably, 0

    def failing(file, content):
        nonlocal count
        count += 1
        if count == k or (from_then_on and count > k):
            file.write_bytes(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        write(file, content)

    context = contextlib.ExitStack()
    patch = context.enter_context(monkeypatch.context())
    patch.setattr(files, "write_durably", failing)
    return context


PIECES = len(checkpoint(0).arrays) + 2  # files of a checkpoint, with state.json and manifest.json
WRITES = PIECES + 2  # with best.safetensors and model.safetensors


@pytest.mark.parametrize("from_then_on", [False, True], ids=["once", "from-then-on"])
@pytest.mark.parametrize("k", range(1, WRITES + 1))
def test_a_full_disk_at_any_file_leaves_a_checkpoint(tmp_path, monkeypatch, k, from_then_on):
    run = make(tmp_path)
    run.append("log.jsonl", '{"step": 1}\n')
    run.save(checkpoint(3))
    run.append("log.jsonl", '{"step": 2}\n')
    before = tree(tmp_path)
    with full_at(monkeypatch, k, from_then_on=from_then_on), pytest.raises(OSError, match="No space left") as caught:
        run.save(checkpoint(7))
    assert caught.value.errno == errno.ENOSPC
    if k <= PIECES:
        assert tree(tmp_path) == before
    assert leftovers(tmp_path) == []
    assert weight_of(run) in (3, 7)  # undamaged, either old or new
    assert weight_of(run, best=True) in (3.5, 7.5)
    again = RunDirectory.open(tmp_path)
    step = 3 if k <= PIECES else 7
    assert_same(again.recover(), checkpoint(step))
    assert again.log() == [{"step": 1}, {"step": 2}][: 1 if step == 3 else 2]
    assert (weight_of(again), weight_of(again, best=True)) == (step, step + 0.5)
    again.save(checkpoint(11))
    assert_same(again.recover(), checkpoint(11))


def test_a_checkpoint_writes_the_expected_number_of_files(tmp_path, monkeypatch):
    run = make(tmp_path)
    with full_at(monkeypatch, WRITES + 1, from_then_on=True):
        run.save(checkpoint(3))
    assert_same(run.recover(), checkpoint(3))


@pytest.mark.parametrize("k", range(1, PIECES + 1))
def test_a_full_disk_at_the_first_checkpoint_leaves_no_partial_files(tmp_path, monkeypatch, k):
    run = make(tmp_path)
    before = tree(tmp_path)
    with full_at(monkeypatch, k, from_then_on=True), pytest.raises(OSError, match="No space left"):
        run.save(checkpoint(3))
    assert tree(tmp_path) == before
    assert leftovers(tmp_path) == []
    assert run.recover() is None


@pytest.mark.parametrize("k", [1, 2])
def test_a_full_disk_while_a_run_is_created_leaves_no_run(tmp_path, monkeypatch, k):
    with full_at(monkeypatch, k, from_then_on=True), pytest.raises(OSError, match="No space left"):
        make(tmp_path / "a")
    assert not is_run(tmp_path / "a")
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("k", [1, 2])
def test_a_run_can_be_created_once_there_is_room_again(tmp_path, monkeypatch, k):
    with full_at(monkeypatch, k, from_then_on=True), pytest.raises(OSError, match="No space left"):
        make(tmp_path / "a")
    make(tmp_path / "a")
    assert RunDirectory.open(tmp_path / "a").settings == SETTINGS


def test_a_full_disk_leaves_the_previous_settings(tmp_path, monkeypatch):
    run = make(tmp_path)
    run.settings = run.settings.replaced(epochs=9)
    with full_at(monkeypatch, 1, from_then_on=True), pytest.raises(OSError, match="No space left"):
        run.write_settings()
    assert RunDirectory.open(tmp_path).settings == SETTINGS
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("k", range(1, PIECES + 1))
def test_a_disk_that_corrupts_data_is_detected(tmp_path, monkeypatch, k):
    run = make(tmp_path)
    run.save(checkpoint(3))
    write, count = files.write_durably, 0

    def forgetful(file, content):
        nonlocal count
        count += 1
        write(file, content[:-1] + bytes([content[-1] ^ 1]) if count == k else content)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_durably", forgetful)
        with pytest.raises(OSError, match="did not read back as it was written"):
            run.save(checkpoint(7))
    assert weight_of(run) == 3
    assert_same(run.recover(), checkpoint(3))


def test_a_failed_checkpoint_of_the_same_step_leaves_the_previous_one(tmp_path, monkeypatch):
    run = make(tmp_path)
    run.save(checkpoint(3))

    def refuse(path, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        with pytest.raises(OSError, match="No space left"):
            run.save(checkpoint(3))
    assert_same(run.recover(), checkpoint(3))


# A kill between any two operations


class KilledError(BaseException):
    """Stands for a kill; nothing catches it."""


def kill_at(monkeypatch, k: int, *, after: bool) -> list[str]:
    """Simulate a kill during or right after the k-th change of the disk (counted from 1).

    Returns a list that collects the names of the changes that were begun.
    """
    begun: list[str] = []

    def cut_write(file, content):
        file.write_bytes(content[: len(content) // 2])

    def cut_removal(path, *_, **__):
        for file in [p for p in sorted(Path(path).rglob("*")) if p.is_file()][:2]:
            file.unlink()

    def nothing(*_, **__):
        pass

    def killing(owner, name, cut):
        original = getattr(owner, name)

        def operation(*arguments, **named):
            begun.append(name)
            if len(begun) != k:
                return original(*arguments, **named)
            (original if after else cut)(*arguments, **named)
            raise KilledError

        monkeypatch.setattr(owner, name, operation)

    killing(files, "write_durably", cut_write)
    killing(Path, "rename", nothing)
    killing(Path, "replace", nothing)
    killing(os, "truncate", nothing)
    killing(shutil, "rmtree", cut_removal)
    return begun


def operations(tmp_path, monkeypatch, action) -> int:
    """Return the number of changes of the disk that an action makes."""
    with monkeypatch.context() as patch:
        begun = kill_at(patch, 0, after=False)
        action(tmp_path)
        return len(begun)


def prepare_for_save(path: Path) -> RunDirectory:
    run = make(path)
    run.append("log.jsonl", '{"step": 1}\n')
    run.save(checkpoint(3))
    run.append("log.jsonl", '{"step": 2}\n')
    return run


@pytest.mark.parametrize("after", [False, True], ids=["during", "after"])
def test_a_kill_at_any_moment_of_a_save_leaves_a_checkpoint(tmp_path, monkeypatch, after):
    total = operations(tmp_path, monkeypatch, lambda path: prepare_for_save(path / "0").save(checkpoint(7)))
    first = operations(tmp_path, monkeypatch, lambda path: prepare_for_save(path / "00"))
    recovered = []
    for k in range(1, total - first + 1):
        path = tmp_path / str(k)
        run = prepare_for_save(path)
        with monkeypatch.context() as patch:
            kill_at(patch, k, after=after)
            with pytest.raises(KilledError):
                run.save(checkpoint(7))
        assert weight_of(RunDirectory.open(path)) in (3, 7)
        again = RunDirectory.open(path)
        result = again.recover()
        assert result is not None
        assert_same(result, checkpoint(result.step))
        assert again.log() == [{"step": 1}, {"step": 2}][: 1 if result.step == 3 else 2]
        assert (weight_of(again), weight_of(again, best=True)) == (result.step, result.step + 0.5)
        assert [p.name for p in (path / "checkpoints").iterdir()] == [f"step-{result.step:09d}"]
        again.save(checkpoint(11))
        assert_same(again.recover(), checkpoint(11))
        assert leftovers(path) == []
        recovered.append(result.step)
    assert recovered == sorted(recovered)
    assert set(recovered) == {3, 7}
    assert len(recovered) >= WRITES + 4  # the renames of the checkpoint, best and model, and a removal


@pytest.mark.parametrize("after", [False, True], ids=["during", "after"])
def test_a_kill_at_any_moment_of_recovering_can_be_recovered_from(tmp_path, monkeypatch, after):
    def interrupted(path):
        """A run with a complete checkpoint, an unfinished one, an older one, and reports after the checkpoint."""
        run = prepare_for_save(path)
        shutil.copytree(path / "checkpoints" / "step-000000003", path / "older")
        run.save(checkpoint(7))
        run.append("log.jsonl", '{"step": 8}\n')
        (path / "older").rename(path / "checkpoints" / "step-000000003")
        (path / "checkpoints" / ".step-000000009.tmp").mkdir()
        return run

    total = operations(tmp_path, monkeypatch, lambda path: interrupted(path / "0").recover())
    first = operations(tmp_path, monkeypatch, lambda path: interrupted(path / "00"))
    assert total - first >= 7  # the log truncated, best and model written and renamed, two removals
    for k in range(1, total - first + 1):
        run = interrupted(tmp_path / str(k))
        with monkeypatch.context() as patch:
            kill_at(patch, k, after=after)
            with pytest.raises(KilledError):
                run.recover()
        again = RunDirectory.open(tmp_path / str(k))
        assert_same(again.recover(), checkpoint(7))
        assert again.log() == [{"step": 1}, {"step": 2}]
        assert [p.name for p in (tmp_path / str(k) / "checkpoints").iterdir()] == ["step-000000007"]


@pytest.mark.parametrize("after", [False, True], ids=["during", "after"])
def test_a_kill_at_any_moment_of_saving_the_same_step_again_leaves_one(tmp_path, monkeypatch, after):
    again = checkpoint(3, position=8)
    total = operations(tmp_path, monkeypatch, lambda path: prepare_for_save(path / "0").save(again))
    first = operations(tmp_path, monkeypatch, lambda path: prepare_for_save(path / "00"))
    renewed = []
    for k in range(1, total - first + 1):
        run = prepare_for_save(tmp_path / str(k))
        with monkeypatch.context() as patch:
            kill_at(patch, k, after=after)
            with pytest.raises(KilledError):
                run.save(again)
        result = RunDirectory.open(tmp_path / str(k)).recover()
        assert result is not None
        renewed.append("position" in result.state)
        assert_same(result, again if renewed[-1] else checkpoint(3))
    assert renewed == sorted(renewed)  # once the new one exists, it is used
    assert renewed[-1]


@pytest.mark.parametrize("after", [False, True], ids=["during", "after"])
@pytest.mark.parametrize("k", range(1, 5))
def test_a_kill_while_a_run_is_created_leaves_all_or_nothing(tmp_path, monkeypatch, k, after):
    with monkeypatch.context() as patch:
        kill_at(patch, k, after=after)
        with pytest.raises(KilledError):
            make(tmp_path / "a")
    assert is_run(tmp_path / "a") == (k == 4 and after)
    if is_run(tmp_path / "a"):
        assert RunDirectory.open(tmp_path / "a").settings == SETTINGS


# Damaged files


def damage(data, content: bytes) -> bytes:
    """Damage bytes: truncate them, change one, or replace all."""
    place = data.draw(st.integers(0, len(content) - 1))
    flip = data.draw(st.integers(1, 255))
    return data.draw(
        st.sampled_from([content[:place], content[:place] + bytes([content[place] ^ flip]) + content[place + 1 :]])
        | st.binary(max_size=60).filter(lambda other: other != content)
    )


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    """A run with complete checkpoints of steps 3 and 7."""
    path = tmp_path_factory.mktemp("two") / "run"
    run = make(path)
    run.save(checkpoint(3))
    shutil.copytree(path / "checkpoints" / "step-000000003", path / "older")
    run.save(checkpoint(7))
    (path / "older").rename(path / "checkpoints" / "step-000000003")
    return path


PARTS = [*(f"{group}.safetensors" for group in checkpoint(0).arrays), "state.json", "manifest.json"]


@quick
@given(data=st.data(), name=st.sampled_from(PARTS), alone=st.booleans())
def test_the_newest_complete_checkpoint_is_used(data, name, alone, two_checkpoints, tmp_path_factory):
    path = tmp_path_factory.mktemp("damaged") / "run"
    shutil.copytree(two_checkpoints, path)
    file = path / "checkpoints" / "step-000000007" / name
    file.write_bytes(damage(data, file.read_bytes()))
    if alone:
        shutil.rmtree(path / "checkpoints" / "step-000000003")
    run = RunDirectory.open(path)
    if name == "manifest.json":
        allowed = {None if alone else 3, 7}  # some damage is harmless, such as a space for a line break
    else:
        allowed = {None if alone else 3}
    result, message = None, ""
    try:
        result = run.recover()
    except InputError as error:
        message = str(error)
    if result is None:
        assert None in allowed
        assert message == (
            f"no checkpoint in {path}/checkpoints is complete (checked against its manifest.json): restore one, or "
            "start again with --overwrite"
        )
    else:
        assert result.step in allowed
        assert_same(result, checkpoint(result.step))
        assert weight_of(run) == result.step


@pytest.mark.parametrize("name", PARTS)
def test_a_missing_file_makes_a_checkpoint_incomplete(tmp_path, two_checkpoints, name):
    shutil.copytree(two_checkpoints, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "step-000000007" / name).unlink()
    assert_same(RunDirectory.open(tmp_path / "run").recover(), checkpoint(3))


def test_a_checkpoint_of_another_format_is_not_read(tmp_path):
    run = make(tmp_path)
    run.save(checkpoint(3))
    manifest = tmp_path / "checkpoints" / "step-000000003" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(InputError, match=r"^no checkpoint in .* is complete"):
        run.recover()


@quick
@given(data=st.data(), name=st.sampled_from(["config.json", "tokenizer.json", "model.safetensors", "best.safetensors"]))
def test_a_damaged_file_loads_or_is_named(data, name, two_checkpoints, tmp_path_factory):
    path = tmp_path_factory.mktemp("damaged") / "run"
    path.mkdir()
    for file in ("config.json", "tokenizer.json", "model.safetensors", "best.safetensors"):
        shutil.copy(two_checkpoints / file, path)
    (path / name).write_bytes(damage(data, (path / name).read_bytes()))
    message = ""
    try:
        run = RunDirectory.open(path)
        run.weights()
        run.weights(best=True)
    except InputError as error:
        message = str(error)
    assert not message or f"{path}/{name}" in message


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", b"", r"/config\.json is damaged \(JSONDecodeError\(.*\)\): restore it, or train again$"),
        ("config.json", b"\xff", r"/config\.json is damaged \(UnicodeDecodeError\(.*\)\): restore it, or train again$"),
        ("config.json", b"[]", r"/config\.json is damaged \(TypeError\(.*\)\): restore it, or train again$"),
        ("config.json", b"[" * 100_000, r"/config\.json is damaged \(RecursionError\("),
        ("config.json", b'{"settings": {}}', r"/config\.json is damaged \(KeyError\('facts'\)\): restore it, or "),
        (
            "config.json",
            b'{"format": 3, "settings": {}, "facts": {}}',
            r"/config\.json has format 3, but this headgate reads 1 to 2: use the version that wrote it$",
        ),
        (
            "config.json",
            b'{"format": 1, "settings": [], "facts": {}}',
            r"/config\.json is damaged \(settings and facts must be tables\): restore it, or train again$",
        ),
        (
            "config.json",
            b'{"format": 1, "settings": {"model": {"hiden": 3}}, "facts": {}}',
            r"/config\.json: unknown key 'hiden' in \[model\]: did you mean hidden_size\?$",
        ),
        (
            "config.json",
            b'{"format": 1, "settings": {"modle": {"hidden_size": 3}}, "facts": {}}',
            r"/config\.json.*modle",  # otherwise the default model would be used silently
        ),
        ("tokenizer.json", None, r"/tokenizer\.json is missing or damaged: restore it, or train again$"),
        ("tokenizer.json", b"\xff", r"/tokenizer\.json is missing or damaged: restore it, or train again$"),
        ("tokenizer.json", b"{", r"/tokenizer\.json does not describe a tokenizer \(.*\): restore the file$"),
        ("tokenizer.json", b'{"type": "characters", "characters": "ba"}', r"/tokenizer\.json.*sorted"),
        ("model.safetensors", b"", r"/model\.safetensors is damaged \(.*\): restore it, or train again$"),
        ("model.safetensors", b"\xff" * 40, r"/model\.safetensors is damaged \(.*\): restore it, or train again$"),
    ],
)
def test_damage_is_described(tmp_path, name, content, message):
    make(tmp_path).save(checkpoint(3))
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"^{re.escape(str(tmp_path))}{message}"):
        RunDirectory.open(tmp_path).weights()


def test_a_directory_in_use_is_refused(tmp_path):
    """The second process is told who uses it, and may use it once the first is done or was killed."""
    run = make(tmp_path)
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom headgate.storage.lock import locked\n"
        f"with locked(Path({str(tmp_path)!r})):\n"
        "    print('have it', flush=True)\n    time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "have it\n"
        holder = f"process {other.pid} on {platform.node()}"
        message = f"^{re.escape(str(tmp_path))} is in use by {re.escape(holder)}: wait for it, stop it, or name another"
        with pytest.raises(InputError, match=message), locked(run.path):
            pass
        with pytest.raises(InputError, match=message):
            RunDirectory.create(tmp_path, SETTINGS, TOKENIZER, FACTS, overwrite=True)
        assert is_run(tmp_path)
        other.kill()
    with locked(run.path), pytest.raises(InputError, match=f"in use by process {os.getpid()} on "), locked(run.path):
        pass
    with locked(run.path):
        pass


@pytest.mark.parametrize("line", ["[]", "5", "null", '{"loss": "1.0"}', '{"loss": [1]}', '{"step": 1' + "0" * 30 + "}"])
def test_an_invalid_log_line_is_named(tmp_path, line):
    run = make(tmp_path)
    run.append("log.jsonl", '{"step": 1, "loss": 0.5, "perplexity": null}\n')
    assert len(run.log()) == 1
    run.append("log.jsonl", line + "\n")
    with pytest.raises(InputError, match=r"log\.jsonl is damaged \(line 2 is not a report\): remove that line$"):
        run.log()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_numbers_are_named(tmp_path, value):
    run = make(tmp_path)
    arrays = {"a": np.zeros((2, 3), np.float32), "b": np.zeros(4, np.float32)}
    run.write("model.safetensors", files.format_arrays(arrays))
    assert run.weights().keys() == arrays.keys()
    arrays["b"][2] = value
    run.write("model.safetensors", files.format_arrays(arrays))
    with pytest.raises(
        InputError, match=r"model\.safetensors is damaged \(b contains values that are not finite\): restore"
    ):
        run.weights()
