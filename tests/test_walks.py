"""The walks of docs/architecture.md cross the files that the page lists: traced, not claimed."""

import os
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch

from headgate import GRURegressor, LanguageModel, Runtime, Settings, native
from headgate.runs.find import PRETRAINED
from headgate.text import corpus
from headgate.text.batches import Batches
from headgate.training.run import train
from tests.conftest import ROOT

SOURCE = ROOT / "src" / "headgate"
SMALL: dict[str, Any] = {"limit": 3000, "hidden_size": 8, "embedding": 5, "batch_size": 4, "sequence_length": 9}


def crossed(call: Callable[[], object]) -> list[str]:
    """Return the files of the package in which functions run during a call, in alphabetical order."""
    files, prefix = set(), str(SOURCE) + os.sep

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(prefix) and frame.f_code.co_name != "<module>":
            files.add(Path(frame.f_code.co_filename).relative_to(SOURCE).as_posix())

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return sorted(files - {"__init__.py", "console.py", "errors.py"})


def text_to_loss() -> None:
    settings = Settings().replaced(**SMALL)
    text = corpus.load(settings.text)
    batch = Batches.of(text.training, settings.training).at(0, 0)
    model = LanguageModel(settings, text.tokenizer.vocabulary_size)
    loss, _ = model.loss(torch.from_numpy(batch.x), torch.from_numpy(batch.y))
    loss.backward()


def prefix_to_text() -> None:
    Runtime.load(PRETRAINED / "voyage").generate("The boat", 9, temperature=0.8, seed=1)


def numbers_to_prediction() -> None:
    random = np.random.default_rng(0)
    X = [random.normal(size=(length, 3)) for length in (4, 7, 2, 5, 6)]
    GRURegressor(hidden_size=4, epochs=2, random_state=0).fit(X, np.arange(5.0)).predict(X[:2])


def stop_and_continue(folder: Path) -> None:
    for epochs in (1, 2):
        train("voyage", out=folder / "run", epochs=epochs, sample_every=0, quiet=True, **SMALL)


@pytest.mark.skipif(native.load() is None, reason="the native library was not built, and the walks go through it")
@pytest.mark.parametrize("walk", ["Text to loss", "Prefix to text", "X, y to prediction", "Stop to continuation"])
def test_walk(walk: str, tmp_path: Path) -> None:
    calls: dict[str, Callable[[], object]] = {
        "Text to loss": text_to_loss,
        "Prefix to text": prefix_to_text,
        "X, y to prediction": numbers_to_prediction,
        "Stop to continuation": lambda: stop_and_continue(tmp_path),
    }
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    section = page[page.index(f"**{walk}.**") :]
    found = re.search(r"^(\d+) files: (.*?)\.\n", section, re.MULTILINE | re.DOTALL)
    assert found is not None
    listed = [name.strip("` \n") for name in found[2].split(",")]
    assert listed == crossed(calls[walk])
    assert int(found[1]) == len(listed)
