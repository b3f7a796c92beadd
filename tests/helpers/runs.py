"""Small training runs, and the parts that two equal runs must have in common."""

import os
from pathlib import Path

import torch

from headgate.runs.run_directory import RunDirectory
from headgate.settings.run import Settings
from headgate.text import corpus as corpora
from headgate.text.corpus import Corpus
from headgate.training.loop import Result, train
from headgate.training.report import Report

TEXT = "the water came down the canal and the keeper let it through. " * 12
SMALL = {
    "hidden_size": 12,
    "num_layers": 2,
    "embedding": 5,
    "dropout": 0.3,
    "epochs": 6,
    "batch_size": 4,
    "sequence_length": 9,
    "validation_fraction": 0.2,
    "sample_every": 2,
    "sample_length": 8,
    "threads": 1,
}


def small(**changes) -> Settings:
    return Settings().replaced(**{**SMALL, **changes})


def corpus_of(settings: Settings, tmp_path: Path, text: str = TEXT) -> Corpus:
    file = tmp_path / "text.txt"
    file.write_text(text)
    return corpora.load(settings.replaced(corpus=str(file)).text)


def start(tmp_path: Path, settings: Settings, name: str = "run") -> tuple[RunDirectory, Corpus]:
    corpus = corpus_of(settings, tmp_path)
    return RunDirectory.create(tmp_path / name, settings, corpus.tokenizer, {}), corpus


def go(run: RunDirectory, corpus: Corpus, **options) -> Result:
    torch.manual_seed(int.from_bytes(os.urandom(4)))  # a run must not depend on the state of the process
    return train(run, corpus, Report(run, quiet=True), **options)


def everything(run: RunDirectory, *, but: tuple[str, ...] = ("tokens_per_second",)) -> dict:
    """Return everything that two equal runs must have in common, to the bit."""
    checkpoint = RunDirectory.open(run.path).recover()
    assert checkpoint is not None
    return {
        "weights": {k: v.tobytes() for k, v in run.weights().items()},
        "arrays": {g: {k: v.tobytes() for k, v in a.items()} for g, a in checkpoint.arrays.items()},
        "state": checkpoint.state,
        "log": [{k: v for k, v in entry.items() if k not in but} for entry in run.log()],
        "samples": (run.path / "samples.txt").read_text(),
    }


def flags(**changes) -> list[str]:
    settings = {**SMALL, **changes}
    return [part for k, v in settings.items() for part in ("--" + k.replace("_", "-"), str(v))]
