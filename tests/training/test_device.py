"""Devices and precisions: missing ones are named; scaled losses train, overflow is skipped, and the scale is saved.

A GPU may be missing, so mixed precision is tested on the CPU, which ``headgate train`` does not do.
"""

import math
from pathlib import Path

import pytest
import torch

from headgate.errors import InputError
from headgate.runs.run_directory import RunDirectory
from headgate.training import state
from headgate.training.device import Device
from tests.helpers.runs import everything, go, small, start


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_named() -> None:
    with pytest.raises(
        InputError, match=r"^device cuda: this torch finds no CUDA GPU: install a build of torch for it"
    ):
        Device.of("cuda", "float32")


def test_each_process_needs_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match=r"^process 2 of this machine needs a GPU of its own, there are 2: "):
        Device.of("cuda", "float32", number=2)


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is a GPU")
def test_a_missing_apple_gpu_is_named() -> None:
    with pytest.raises(InputError, match=r"^device mps: this torch finds no Apple GPU: omit --device$"):
        Device.of("mps", "float32")


def test_a_cpu_computes_in_float32() -> None:
    with pytest.raises(InputError, match="precision bfloat16 is for device cuda or mps: a CPU computes in float32"):
        small(precision="bfloat16")
    assert small(precision="bfloat16", device="cuda").training.precision == "bfloat16"
    assert Device.of("cpu", "float32").scaling == {}


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> list[Device]:
    """Make runs train in float16 on the CPU as they would on a GPU; return their devices."""
    made: list[Device] = []

    def of(name: str, precision: str, *, number: int = 0) -> Device:
        made.append(Device(torch.device("cpu"), "float16"))
        return made[-1]

    monkeypatch.setattr(state.Device, "of", of)
    return made


@pytest.mark.parametrize("model", [{"reset": "before"}, {"embedding": 0}, {"backend": "auto"}], ids=str)
def test_a_scaled_loss_trains_the_same(
    tmp_path: Path, scaled: list[Device], monkeypatch: pytest.MonkeyPatch, model: dict[str, object]
) -> None:
    """Scaling the loss and unscaling the gradients changes nothing beyond rounding to 16 bits."""
    settings = small(**{"max_steps": 12, "clip": 0.1, "backend": "torch", **model})
    run, corpus = start(tmp_path, settings, "scaled")
    go(run, corpus)
    assert scaled[0].scaling["scale"] == 2.0**16
    monkeypatch.undo()
    plain, _ = start(tmp_path, settings, "plain")
    go(plain, corpus)
    weights = plain.weights()
    difference = max(abs(value - weights[name]).max() for name, value in run.weights().items())
    assert 0 <= difference < 2e-2


def test_overflow_is_skipped_and_the_scale_falls(
    tmp_path: Path, scaled: list[Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While gradients overflow, the factor is halved and no weight changes."""
    backward = Device.backward

    def overflow(self: Device, loss: torch.Tensor) -> None:
        backward(self, loss * math.inf if self.scaling["scale"] > 2.0**13 else loss)

    monkeypatch.setattr(Device, "backward", overflow)
    run, corpus = start(tmp_path, small(max_steps=8, dropout=0.0))
    assert go(run, corpus).progress.skipped == 3
    assert scaled[0].scaling["scale"] == 2.0**13
    assert math.isfinite(sum(float(abs(value).sum()) for value in run.weights().values()))


def test_a_continued_run_keeps_its_scale(tmp_path: Path, scaled: list[Device], monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped run continues as if uninterrupted, even between two growths of the factor."""
    grow = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device: grow(device, init_scale=4.0, growth_interval=4))
    whole, corpus = start(tmp_path, small(), "whole")
    go(whole, corpus)
    assert scaled[0].scaling["scale"] > 4.0
    run, _ = start(tmp_path, small(max_steps=7), "parts")
    go(run, corpus)
    run = RunDirectory.open(run.path)
    run.settings = run.settings.replaced(max_steps=0)
    go(run, corpus)
    assert everything(run) == everything(whole)
    assert scaled[2].scaling == scaled[0].scaling
