"""The examples run on the data that their libraries bring along, and come to what the documentation says."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import ROOT

PNG = b"\x89PNG"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_regression_on_random_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    losses = example("regression").main(epochs=300, samples=64)
    assert 0.9 < sum(losses[100:]) / 200 < 1.15  # the variance of the targets, whatever the model
    assert "mean loss of the last 150 epochs: " in capsys.readouterr().out


@pytest.mark.slow
def test_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    accuracy = example("digits").main(tmp_path)
    assert accuracy >= 0.97
    assert f"accuracy {accuracy:.4f} over 599 images" in capsys.readouterr().out
    assert (tmp_path / "digits.png").read_bytes().startswith(PNG)


@pytest.mark.slow
def test_series(tmp_path: Path) -> None:
    means = example("series").main(tmp_path)
    assert set(means) == {"co2", "sunspots"}
    for name, mean in means.items():
        assert mean["mase"] < mean["seasonal_naive"], name
        assert 0.7 <= mean["coverage"] <= 0.9, name
        assert (tmp_path / f"{name}.png").read_bytes().startswith(PNG)
