"""train(): it learns, resumes to the bit from any step, reports correctly, and stops when it must."""

import errno
import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from headgate.errors import InputError
from headgate.models.language_model import LanguageModel
from headgate.runs.overview import look
from headgate.runs.run_directory import RunDirectory
from headgate.settings.run import Settings
from headgate.storage import files
from headgate.text.batches import Batches
from headgate.text.characters import CharacterTokenizer
from headgate.text.corpus import Corpus
from headgate.training import loop
from headgate.training.device import Device
from headgate.training.loop import prefixes
from tests.helpers.runs import TEXT, corpus_of, everything, flags, go, small, start

VARIANTS = {
    "adamw, cosine, dropout": {},
    "sgd with momentum, plateau": {"optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.5, "schedule": "plateau",
                                   "plateau": 1},
    "random partition, before": {"partition": "random", "reset": "before", "embedding": 0},
    "textbook start": {"bias": "single", "initialization": "normal", "validation_fraction": 0.0, "optimizer": "adam"},
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("where", ["in the middle", "at the edge", "three times"])
def test_a_stopped_run_continues_to_the_bit(tmp_path: Path, variant: str, where: str) -> None:
    """Stopped in the middle of an epoch, at its end, or three times, a run equals an uninterrupted one."""
    settings = small(**VARIANTS[variant])
    whole, corpus = start(tmp_path, settings, "whole")
    assert go(whole, corpus).ending == "finished"
    edge = Batches.of(corpus.training, settings.training).per_epoch
    stops = {"in the middle": (edge // 2,), "at the edge": (2 * edge,), "three times": (edge - 1, edge, 3 * edge + 2)}[
        where
    ]

    run, _ = start(tmp_path, settings.replaced(max_steps=stops[0]), "parts")
    for step, following in zip(stops, (*stops[1:], 0), strict=True):
        result = go(run, corpus)
        assert (result.ending, result.progress.step) == ("paused", step)
        run = RunDirectory.open(run.path)
        run.settings = run.settings.replaced(max_steps=following)
    assert go(run, corpus).ending == "finished"
    assert everything(run) == everything(whole)


def test_reporting_frequency_does_not_affect_the_weights(tmp_path: Path) -> None:
    """The frequency of checkpoints, samples and reports does not affect the weights."""
    often, corpus = start(tmp_path, small(checkpoint_every=1, report_every=1, sample_every=1), "often")
    rarely, _ = start(tmp_path, small(sample_every=0), "rarely")
    go(often, corpus)
    go(rarely, corpus)
    for name, value in rarely.weights().items():
        assert value.tobytes() == often.weights()[name].tobytes(), name


def test_a_run_can_be_interrupted_by_request(tmp_path: Path) -> None:
    whole, corpus = start(tmp_path, small(), "whole")
    go(whole, corpus)
    run, _ = start(tmp_path, small(), "parts")
    asked = iter([False] * 6 + [True])
    assert go(run, corpus, stop=lambda: next(asked)).ending == "interrupted"
    assert go(run, corpus).ending == "finished"
    assert everything(run) == everything(whole)


def run_command(*arguments: str, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "headgate", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def wait_for_checkpoint(process: subprocess.Popen, run: Path, after: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        steps = [
            int(p.name.split("-")[1]) for p in (run / "checkpoints").glob("step-*") if (p / "manifest.json").exists()
        ]
        if steps and max(steps) >= after:
            return
        time.sleep(0.01)
    raise AssertionError(f"no checkpoint after step {after}: {process.communicate(timeout=5)}")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_a_killed_run_continues_to_the_bit(tmp_path: Path, number: signal.Signals) -> None:
    """Killed or told to stop twice between checkpoints, a run equals an uninterrupted one."""
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    options = flags(epochs=60, checkpoint_every=7)
    whole = run_command("train", str(text), "--out", str(tmp_path / "whole"), *options)
    whole.communicate()
    arguments = ["train", str(text), "--out", str(tmp_path / "parts"), *options]
    for after in (1, 200):
        process = run_command(*arguments)
        wait_for_checkpoint(process, tmp_path / "parts", after)
        process.send_signal(number)
        _, errors = process.communicate()
        if number == signal.SIGKILL:
            assert process.returncode == -number
        else:
            assert process.returncode == 128 + number
            assert "saved; continue with" in errors
        arguments = ["train", "--out", str(tmp_path / "parts"), "--resume"]
    last = run_command(*arguments)
    output, errors = last.communicate()
    assert last.returncode == 0, errors
    assert "finished" in output
    assert everything(RunDirectory.open(tmp_path / "parts")) == everything(RunDirectory.open(tmp_path / "whole"))


def test_training_learns(tmp_path: Path) -> None:
    settings = small(dropout=0.0, epochs=40, hidden_size=32, learning_rate=0.02, validation_fraction=0.2)
    run, corpus = start(tmp_path, settings)
    go(run, corpus)
    log = run.log()
    assert log[0]["perplexity"] > 8
    assert log[-1]["perplexity"] < 1.3
    assert log[-1]["held_out_perplexity"] < 1.6


def model_of(run: RunDirectory) -> LanguageModel:
    model = LanguageModel(run.settings.model, run.tokenizer.vocabulary_size)
    model.load_state_dict({k: torch.from_numpy(v) for k, v in run.weights().items()})
    return model


def test_ten_losses_equal_those_of_a_plain_loop(tmp_path: Path) -> None:
    """The losses equal those of a textbook loop with torch.nn.GRU and one-hot vectors."""
    settings = small(
        embedding=0,
        num_layers=1,
        dropout=0.0,
        optimizer="sgd",
        learning_rate=1.0,
        clip=0.1,
        report_every=1,
        schedule="constant",
        validation_fraction=0.0,
        max_steps=30,
        random_offset=False,
    )
    run, corpus = start(tmp_path, settings)
    go(run, corpus)
    actual, before = [], {"loss": 0.0, "tokens": 0}
    for entry in run.log():  # recover the loss of each step from the mean over the epoch so far
        if entry["tokens"] == 36:
            before = {"loss": 0.0, "tokens": 0}
        if entry["tokens"] > before["tokens"]:
            actual.append((entry["loss"] * entry["tokens"] - before["loss"] * before["tokens"]) / 36)
        before = entry

    torch.manual_seed(settings.training.seed)
    V = corpus.tokenizer.vocabulary_size
    gru, head = nn.GRU(V, 12), nn.Linear(12, V)
    parameters = [*gru.parameters(), *head.parameters()]
    rows = (len(corpus.training) - 1) // 4
    text = torch.from_numpy(corpus.training).long()
    per_epoch, expected, h = rows // 9, [], None
    assert per_epoch < 30, "the state must not be carried over an epoch's end"
    for step in range(30):
        at = step % per_epoch * 9
        x = torch.stack([text[row * rows + at : row * rows + at + 9] for row in range(4)], 1)
        y = torch.stack([text[row * rows + at + 1 : row * rows + at + 10] for row in range(4)], 1)
        h = None if at == 0 else h.detach()
        states, h = gru(nn.functional.one_hot(x, V).float(), h)
        loss = nn.functional.cross_entropy(head(states).reshape(-1, V), y.reshape(-1))
        gradients = torch.autograd.grad(loss, parameters)
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        with torch.no_grad():
            for p, g in zip(parameters, gradients, strict=True):
                p -= g * min(1.0, 0.1 / float(norm))
        expected.append(loss.item())
    assert actual == pytest.approx(expected, rel=2e-4)


def test_report_is_weighted_by_tokens(tmp_path: Path) -> None:
    run, corpus = start(tmp_path, small(report_every=3))
    go(run, corpus)
    per_epoch = Batches.of(corpus.training, run.settings.training).per_epoch
    for entry in run.log():
        assert entry["perplexity"] == pytest.approx(math.exp(entry["loss"]))
        assert entry["bits_per_character"] == pytest.approx(entry["loss"] / math.log(2))
        assert entry["tokens"] == (entry["step"] - (entry["epoch"] - 1) * per_epoch) * 36


def test_early_stopping_keeps_the_best(tmp_path: Path) -> None:
    """The end of the text is unlike its beginning, so that the held-out loss soon rises."""
    settings = small(epochs=200, patience=3, learning_rate=0.05, dropout=0.0, hidden_size=24)
    corpus = corpus_of(settings, tmp_path, "abcdefgh" * 100 + "hgfedcba" * 25)
    run = RunDirectory.create(tmp_path / "run", settings, corpus.tokenizer, {})
    result = go(run, corpus)
    assert result.ending == "stopped early"
    losses = [e["held_out_loss"] for e in run.log()]
    best = min(range(len(losses)), key=losses.__getitem__) + 1
    assert result.progress.best_epoch == best == len(losses) - 3
    assert result.progress.best_loss == min(losses)
    used, kept = run.weights(), run.weights(best=True)
    assert all(np.array_equal(used[k], kept[k]) for k in used)
    actual = loop.evaluate(loop.evaluation_losses(model_of(run)), corpus.held_out).loss
    assert actual == pytest.approx(min(losses), rel=1e-6)
    steps = result.progress.step
    assert go(run, corpus).progress.step == steps, "a run that stopped early is finished"


def test_the_best_weights_survive_a_stop(tmp_path: Path) -> None:
    """A run that stops after its best epoch still has the weights of that epoch as its best."""
    settings = small(epochs=12, learning_rate=0.05, dropout=0.0, hidden_size=24)
    corpus = corpus_of(settings, tmp_path, "abcdefgh" * 100 + "hgfedcba" * 25)
    whole = RunDirectory.create(tmp_path / "whole", settings, corpus.tokenizer, {})
    best = go(whole, corpus).progress.best_epoch
    assert best < 10
    stop = (best + 1) * Batches.of(corpus.training, settings.training).per_epoch + 3
    run = RunDirectory.create(tmp_path / "parts", settings.replaced(max_steps=stop), corpus.tokenizer, {})
    go(run, corpus)
    run = RunDirectory.open(run.path)
    run.settings = settings
    assert go(run, corpus).progress.best_epoch == best
    assert everything(run) == everything(whole)
    kept, expected = run.weights(best=True), whole.weights(best=True)
    assert all(kept[k].tobytes() == expected[k].tobytes() for k in expected)


@pytest.mark.parametrize(("loss", "better"), [(0.999, True), (1.0, False), (1.001, False), (math.nan, False)])
def test_any_lower_loss_is_the_best(loss: float, better: bool) -> None:
    settings = small()
    model = LanguageModel(settings.model, 7)
    state = loop.Training(model, None, model.loss, Device(torch.device("cpu")))
    progress = loop.Progress(epoch=4, best_loss=1.0, best_epoch=2, waited=2)
    loop._compare_with_best(loss, progress, state, settings.training)
    assert (progress.best_loss, progress.best_epoch, progress.waited) == ((loss, 5, 0) if better else (1.0, 2, 3))
    assert bool(state.best) == better


def test_plateau_halves_the_rate(tmp_path: Path) -> None:
    settings = small(epochs=30, schedule="plateau", plateau=2, learning_rate=0.05, dropout=0.0, hidden_size=24)
    corpus = corpus_of(settings, tmp_path, "abcdefgh" * 100 + "hgfedcba" * 25)
    run = RunDirectory.create(tmp_path / "run", settings, corpus.tokenizer, {})
    go(run, corpus)
    log = run.log()
    rates = [e["learning_rate"] for e in log]
    assert rates[-1] < rates[0] == 0.05
    best = waited = 0
    for i, entry in enumerate(log[:-1]):
        better = i == 0 or entry["held_out_loss"] < best
        best, waited = (entry["held_out_loss"], 0) if better else (best, waited + 1)
        assert rates[i + 1] == rates[i] / (2 if waited and waited % 2 == 0 else 1)


def test_samples_do_not_affect_training_and_are_kept(tmp_path: Path) -> None:
    run, corpus = start(tmp_path, small(sample_prefixes=("the ", "keeper")))
    go(run, corpus)
    lines = (run.path / "samples.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in lines] == [f"epoch {e}" for e in (2, 2, 4, 4, 6, 6)]
    assert lines[0].startswith("epoch 2: the ")
    assert lines[1].startswith("epoch 2: keeper")
    assert len(lines[1]) == len("epoch 2: keeper") + 8


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        ("\nTwelve Notches\nand more", "Twelve"),
        ("the water came", "the water"),
        ("Incomprehensible words", "Incomprehe"),
        ("keep water.", "keep water"),
        ("河水走到这里慢了下来一道", "河水走到这里慢了下来"),
        ("a b", "a b"),
        ("\n\n", ""),
    ],
)
def test_a_sample_starts_with_whole_words(text: str, prefix: str) -> None:
    corpus = Corpus(np.zeros(3), np.zeros(0), CharacterTokenizer.from_text("a"), len(text), text, "")
    assert prefixes(Settings().training, corpus) == (prefix,)


def test_a_diverging_run_stops(tmp_path: Path) -> None:
    settings = small(optimizer="sgd", learning_rate=1e38, clip=0.0, schedule="constant", dropout=0.0)
    run, corpus = start(tmp_path, settings)
    with pytest.raises(InputError, match=r"not finite in 10 steps in a row, up to step 1[0-9].*lower --learning-rate"):
        go(run, corpus)
    assert run.log()[-1] == {"step": run.log()[-1]["step"], "epoch": 1, "diverged": True}
    assert look(run.path).state == "diverged"


def test_bad_steps_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps without a finite loss change nothing and are counted, and training continues."""
    run, corpus = start(tmp_path, small(report_every=1, epochs=1, dropout=0.0))
    of_model, calls = LanguageModel.loss, iter(range(1000))

    def sometimes_nan(self, *arguments, **options):
        loss, state = of_model(self, *arguments, **options)
        return (loss * math.nan, state * math.nan) if next(calls) in (3, 4) and self.training else (loss, state)

    monkeypatch.setattr(LanguageModel, "loss", sometimes_nan)
    result = go(run, corpus)
    assert result.progress.skipped == 2
    assert result.progress.skipped_in_a_row == 0
    assert all(np.isfinite(v).all() for v in run.weights().values())
    assert [e["skipped"] for e in run.log()][:6] == [0, 0, 0, 1, 2, 2]
    assert all(e["loss"] is not None and e["held_out_loss"] for e in run.log()[-1:])


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed checkpoint is reported in one sentence, and training can resume from the previous one."""

    whole, corpus = start(tmp_path, small(), "whole")
    go(whole, corpus)
    run, _ = start(tmp_path, small(checkpoint_every=10), "run")
    write = files.write_durably

    def full(file: Path, content: bytes) -> None:
        if "step-000000020" in str(file) and "optimizer" in file.name:
            file.write_bytes(content[:100])
            raise OSError(errno.ENOSPC, "No space left on device", str(file))
        write(file, content)

    monkeypatch.setattr(files, "write_durably", full)
    with pytest.raises(
        InputError, match=r"step 20 could not be written.*No space left.*that of step 10 is intact.*--resume"
    ):
        go(run, corpus)
    monkeypatch.undo()
    assert [p.name for p in (run.path / "checkpoints").iterdir()] == ["step-000000010"]
    again = RunDirectory.open(run.path)
    checkpoint = again.recover()
    assert checkpoint is not None
    assert checkpoint.step == 10
    go(again, corpus)
    assert {k: v.tobytes() for k, v in again.weights().items()} == {k: v.tobytes() for k, v in whole.weights().items()}


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    run, corpus = start(tmp_path, small(max_steps=3))
    go(run, corpus)
    run.settings = small(hidden_size=13)
    with pytest.raises(InputError, match=r"checkpoint of step 3 in .* does not fit its config.json"):
        go(run, corpus)


def test_two_processes_make_the_batch_of_one(tmp_path: Path) -> None:
    """With rank and world_size as arguments, the gradients of two ranks average to that of one process."""
    settings = small(dropout=0.0)
    corpus = corpus_of(settings, tmp_path)
    whole = Batches.of(corpus.training, settings.training).at(1, 2)
    parts = [Batches.of(corpus.training, settings.training, rank=r, world_size=2).at(1, 2) for r in (0, 1)]
    model = LanguageModel(settings.model, corpus.tokenizer.vocabulary_size).eval()

    def gradient(batch) -> torch.Tensor:
        logits, _ = model(torch.from_numpy(batch.x))
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(batch.y).flatten())
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])

    assert torch.allclose(gradient(whole), sum(gradient(p) for p in parts) / 2, atol=1e-6)


def test_speed_excludes_the_warm_up() -> None:
    speed = loop.Speed()
    speed.add(10.0, 100)
    speed.warmed_up()
    assert speed.tokens_per_second == 10
    speed.add(1.0, 100)
    speed.warmed_up()
    assert speed.tokens_per_second == 100


def test_all_progress_is_saved(tmp_path: Path) -> None:
    run, corpus = start(tmp_path, small())
    result = go(run, corpus)
    checkpoint = run.recover()
    assert checkpoint is not None
    assert json.loads(json.dumps(checkpoint.state)) == asdict(result.progress)
