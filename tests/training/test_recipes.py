"""Shortened recipes on the textbook's corpora start on the published curve and write samples."""

from pathlib import Path

import pytest

from headgate.cli.main import main
from headgate.runs.run_directory import RunDirectory


def run(recipe: str, tmp_path: Path, data_dir: Path, *options: str) -> RunDirectory:
    out = str(tmp_path / "run")
    arguments = ["train", "--recipe", recipe, "--out", out, "--data-dir", str(data_dir), "--quiet", "--threads", "2"]
    assert main([*arguments, *options]) == 0
    return RunDirectory.open(Path(out))


@pytest.mark.slow
def test_lyrics_concise(tmp_path: Path, data_dir: Path) -> None:
    log = run("lyrics-concise", tmp_path, data_dir, "--epochs", "30").log()
    assert log[-1]["perplexity"] < 1.05
    lines = (tmp_path / "run" / "samples.txt").read_text("utf-8").splitlines()
    assert [line[:12] for line in lines] == ["epoch 30: 分开", "epoch 30: 不分"]
    assert len(lines[0]) == len("epoch 30: 分开") + 50


@pytest.mark.slow
@pytest.mark.parametrize("reset", ["after", "before"])
def test_lyrics_scratch_starts_on_the_published_curve(tmp_path: Path, data_dir: Path, reset: str) -> None:
    """149.48 (after) and 150.96 (before) are published for epoch 40."""
    log = run("lyrics-scratch", tmp_path, data_dir, "--epochs", "40", "--reset", reset, "--sample-every", "0").log()
    assert log[-1]["perplexity"] == pytest.approx(150, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "highest"), [("time-machine-scratch", 15.0), ("time-machine-concise", 12.5)])
def test_time_machine(tmp_path: Path, data_dir: Path, recipe: str, highest: float) -> None:
    log = run(recipe, tmp_path, data_dir, "--epochs", "25").log()
    assert log[0]["perplexity"] > 20
    assert log[-1]["perplexity"] < highest
