"""TensorBoard's reader finds the contents of log.jsonl in a run, each step once, wherever the run was stopped."""

import sys
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator
from tensorboard.summary.writer import event_file_writer

from headgate.cli.main import main
from headgate.errors import InputError
from headgate.runs.run_directory import RunDirectory
from headgate.training.loop import train
from headgate.training.report import Report
from headgate.training.tensorboard_log import Events, check
from tests.helpers.runs import corpus_of, small

TEXT = "the water came down the canal and the keeper let it through. " * 12
SMALL = [
    "--hidden-size",
    "8",
    "--batch-size",
    "4",
    "--sequence-length",
    "9",
    "--epochs",
    "2",
    "--sample-every",
    "0",
    "--threads",
    "1",
    "--quiet",
]


@pytest.fixture(autouse=True)
def _numbered_from_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """Number event files from zero: those of one second are read in text order, where 9 comes after 10."""
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))


def shown(run: Path) -> EventAccumulator:
    return EventAccumulator(str(run / "events"), {SCALARS: 0}).Reload()


def samples(run: Path) -> dict[str, list[tuple[int, str]]]:
    """Return the samples by tag with their steps, from the reader that TensorBoard's pages use."""
    guidance = {plugin_event_accumulator.TENSORS: 0}
    result = plugin_event_accumulator.EventAccumulator(str(run / "events"), guidance).Reload()
    tags = [tag for tag in result.Tags()[plugin_event_accumulator.TENSORS] if tag.startswith("sample")]
    return {tag: [(e.step, e.tensor_proto.string_val[0].decode()) for e in result.Tensors(tag)] for tag in tags}


def assert_as_log(run: RunDirectory) -> None:
    result, log = shown(run.path), run.log()
    names = {name for entry in log for name in entry} - {"step"}
    assert set(result.Tags()[SCALARS]) == names
    for name in names:
        logged = [(entry["step"], np.float32(entry[name])) for entry in log if entry.get(name) is not None]
        assert [(event.step, event.value) for event in result.Scalars(name)] == logged, name


def go(run: RunDirectory, text: Path, *, until: int = 10**9, **changes) -> None:
    """Train as if in a new process; with ``until``, simulate a kill in that step."""
    run = RunDirectory.open(run.path)
    run.settings = run.settings.replaced(**changes)
    steps = iter(range(until))

    def stop() -> bool:
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return False

    report = Report(run, quiet=True)
    try:
        train(run, corpus_of(run.settings, text), report, stop=stop)
    except KeyboardInterrupt:
        assert until < 10**9
    finally:
        report.close()


def begin(tmp_path: Path, **changes) -> RunDirectory:
    settings = small(tensorboard=True, report_every=3, **changes)
    return RunDirectory.create(tmp_path / "run", settings, corpus_of(settings, tmp_path).tokenizer, {})


def test_events_equal_the_log(tmp_path: Path) -> None:
    run = begin(tmp_path, epochs=3, sample_prefixes=("the", "a"))
    go(run, tmp_path)
    assert_as_log(run)
    ends = {entry["epoch"]: entry["step"] for entry in run.log() if "held_out_loss" in entry}
    texts = (run.path / "samples.txt").read_text().splitlines()
    assert [text[:10] for text in texts] == ["epoch 2: t", "epoch 2: a", "epoch 3: t", "epoch 3: a"]
    assert samples(run.path) == {
        "sample/1/text_summary": [(ends[2], "    " + texts[0][9:]), (ends[3], "    " + texts[2][9:])],
        "sample/2/text_summary": [(ends[2], "    " + texts[1][9:]), (ends[3], "    " + texts[3][9:])],
    }


LEGS = {  # changed settings and step of the kill for each leg; a checkpoint is written every 10 steps
    "killed between checkpoints": [({}, 18), ({}, 10**9)],
    "killed before the first": [({}, 8), ({}, 10**9)],
    "other settings after the checkpoint": [({}, 18), ({"report_every": 4, "epochs": 3}, 10**9)],
    "paused": [({"max_steps": 14}, 10**9), ({}, 10**9)],
    "turned on later": [({"tensorboard": False, "max_steps": 14}, 10**9), ({}, 10**9)],
    "off for a while": [({}, 18), ({"tensorboard": False, "max_steps": 24}, 10**9), ({}, 10**9)],
}


@pytest.mark.parametrize("legs", LEGS.values(), ids=list(LEGS))
def test_each_step_occurs_once(tmp_path: Path, legs: list, caplog: pytest.LogCaptureFixture) -> None:
    run = begin(tmp_path, epochs=2, checkpoint_every=10, sample_every=1)
    for changes, until in legs:
        go(run, tmp_path, until=until, **changes)
    assert not caplog.records  # TensorBoard would warn about steps that are repeated
    assert_as_log(run)
    ends = [entry["step"] for entry in run.log() if "held_out_loss" in entry]
    assert len(ends) >= 2
    if not any("tensorboard" in changes for changes, _ in legs):
        assert [step for step, _ in samples(run.path)["sample/1/text_summary"]] == ends


def test_events_before_the_checkpoint_are_kept(tmp_path: Path) -> None:
    log = [{"step": 1, "loss": 4.0}, {"step": 2, "loss": 3.0}]
    before = Events(tmp_path / "events", [])
    for entry, text in zip([*log, {"step": 3, "loss": 7.0}], ("one", "two", "lost"), strict=True):
        before.entry(entry)
        before.samples([text])
    before.close()
    again = Events(tmp_path / "events", log)
    again.close()
    assert [(event.step, event.value) for event in shown(tmp_path).Scalars("loss")] == [(1, 4.0), (2, 3.0)]
    assert samples(tmp_path) == {"sample/1/text_summary": [(1, "    one"), (2, "    two")]}


def test_samples_keep_their_lines(tmp_path: Path) -> None:
    events = Events(tmp_path / "events", [])
    events.entry({"step": 5, "loss": 1.0})
    events.samples(["one\n*two*"])
    events.close()
    assert samples(tmp_path) == {"sample/1/text_summary": [(5, "    one\n    *two*")]}


def test_values_that_are_not_finite_have_no_event(tmp_path: Path) -> None:
    run = begin(tmp_path)
    report = Report(run, quiet=True)
    for step, loss in ((3, 2.5), (6, float("nan")), (9, 0.5)):
        entry = {"step": step, "epoch": 1, "loss": loss, "perplexity": 4.0, "tokens_per_second": 1.0, "skipped": 0}
        report.entry(entry, end_of_epoch=False)
    report.close()
    assert [(event.step, event.value) for event in shown(run.path).Scalars("loss")] == [(3, 2.5), (9, 0.5)]
    assert_as_log(run)


def test_only_the_reporting_process_writes_events(tmp_path: Path) -> None:
    run = begin(tmp_path)
    report = Report(run, quiet=True)
    report.begin(0, 10)
    report.step(1, 2.0, 1.0)
    report.close()
    assert not (run.path / "events").exists()


def test_overwriting_removes_events_and_nothing_else(tmp_path: Path) -> None:
    run = begin(tmp_path)
    folder = run.path / "events"
    for theirs in ([], ["notes.txt"]):
        Events(folder, [{"step": 1, "loss": 2.0}]).close()
        for name in theirs:
            (folder / name).write_text("mine")
        assert len(list(folder.iterdir())) == 1 + len(theirs)
        RunDirectory.create(run.path, run.settings, run.tokenizer, {}, overwrite=True)
        assert folder.exists() == bool(theirs)
        assert not theirs or [p.name for p in folder.iterdir()] == theirs


def test_a_missing_tensorboard_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flag is refused before anything is written, and without it the package is not needed."""
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # importing it raises ModuleNotFoundError
    (tmp_path / "canal.txt").write_text(TEXT)
    out = tmp_path / "run"
    command = ["train", str(tmp_path / "canal.txt"), *SMALL, "--out", str(out)]
    missing = (
        "headgate: --tensorboard needs tensorboard, which is not installed: run pip install '.[tensorboard]' in a "
        "clone of headgate, or use --no-tensorboard\n"
    )
    assert main([*command, "--tensorboard"]) == 2
    assert capsys.readouterr().err == missing
    assert not out.exists()
    assert main(command) == 0
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert main(["train", "--resume", "--epochs", "3", "--tensorboard", "--out", str(out)]) == 2
    assert capsys.readouterr().err == missing
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    assert main(["train", "--resume", "--epochs", "3", "--quiet", "--out", str(out)]) == 0


def test_another_missing_package_is_not_reported_as_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "torch._vendor.packaging.version", None)
    with pytest.raises(ModuleNotFoundError) as caught:
        check()
    assert not isinstance(caught.value, InputError)
