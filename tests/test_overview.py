"""What a run has come to is told truly, whatever state it is in, and where runs differ."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from headgate import GRURegressor
from headgate.cli import main
from headgate.configuration import Settings
from headgate.errors import InputError
from headgate.lock import locked
from headgate.overview import differences, find, look
from headgate.run_directory import Checkpoint, RunDirectory
from headgate.tokenizer import CharacterTokenizer

SMALL = Settings().replaced(hidden=3, epochs=4, patience=2)


def make(path: Path, *, step: int = 0, progress: dict | None = None, **changes) -> RunDirectory:
    run = RunDirectory.create(path, SMALL.replaced(**changes), CharacterTokenizer.from_text("abc"), {})
    for epoch in range(1, (progress or {}).get("epoch", 0) + 1):
        held_out = [9.0, 5.0, 6.0, 7.0][epoch - 1]
        entry = {"epoch": epoch, "step": 10 * epoch, "perplexity": 8.0 / epoch, "held_out_perplexity": held_out}
        run.append("log.jsonl", json.dumps(entry) + "\n")
    if progress is not None:
        run.save(Checkpoint(step, {"weights": {"w": np.zeros(3, np.float32)}}, progress))
    return run


def test_states(tmp_path: Path) -> None:
    make(tmp_path / "a-finished", step=40, progress={"epoch": 4, "waited": 1})
    make(tmp_path / "b-half", step=20, progress={"epoch": 2, "waited": 0})
    make(tmp_path / "c-stopped", step=30, progress={"epoch": 3, "waited": 2})
    make(tmp_path / "d-new")
    diverged = make(tmp_path / "e-diverged", step=10, progress={"epoch": 1, "waited": 0})
    diverged.append("log.jsonl", json.dumps({"step": 17, "epoch": 2, "diverged": True}) + "\n")
    make(tmp_path / "f-damaged").write("config.json", b"{")
    GRURegressor(hidden_size=2, epochs=1).fit(np.ones((4, 3)), np.arange(4.0)).save(tmp_path / "g-fitted")
    (tmp_path / "no run").mkdir()
    found = {o.path.name: o for o in find(tmp_path)}
    assert {name: o.state for name, o in found.items()} == {
        "a-finished": "finished", "b-half": "interrupted", "c-stopped": "stopped early", "d-new": "interrupted",
        "e-diverged": "diverged", "f-damaged": "damaged", "g-fitted": "fitted",
    }  # fmt: skip
    half = found["b-half"]
    assert (half.epoch, half.epochs, half.perplexity, half.held_out) == (2, 4, 4.0, 5.0)
    assert (found["d-new"].epoch, found["d-new"].perplexity, found["d-new"].held_out) == (0, None, None)
    assert found["a-finished"].held_out == 5.0  # the best, not the last
    assert (found["e-diverged"].epoch, found["e-diverged"].perplexity) == (1, 8.0)


def test_running_and_left_alone(tmp_path: Path) -> None:
    run = make(tmp_path / "run", step=20, progress={"epoch": 2, "waited": 0})
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    assert look(run.path).state == "interrupted"
    with locked(run.path):
        assert look(run.path).state == "running"
    assert look(run.path).state == "interrupted"
    assert {p: p.read_bytes() for p in before} == before


def test_size_and_age(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    run.append("samples.txt", "x" * 10_000)
    for file in run.path.rglob("*"):
        if file.is_file():
            os.utime(file, (time.time() - 7200,) * 2)
    found = look(run.path)
    assert found.size == sum(p.stat().st_size for p in run.path.rglob("*") if p.is_file())
    assert 7190 < found.age < 7300


def test_differences(tmp_path: Path) -> None:
    runs = [make(tmp_path / name, **changes) for name, changes in (("a", {}), ("b", {"hidden": 5}), ("c", {"seed": 1}))]
    assert differences(runs) == {"hidden": [3, 5, 3], "seed": [0, 0, 1]}
    assert differences(runs[:1] * 2) == {}


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "runs" / "one", step=40, progress={"epoch": 4, "waited": 0})
    make(tmp_path / "runs" / "two", step=20, progress={"epoch": 2, "waited": 0}, learning_rate=0.5)
    assert main(["runs"]) == 0
    head, one, two = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "state", "epoch", "perplexity", "held", "out", "age", "size"]
    assert one.split()[:5] == ["runs/one", "finished", "4/4", "2.00", "5.00"]
    assert two.split()[:5] == ["runs/two", "interrupted", "2/4", "4.00", "5.00"]
    assert main(["runs", "runs/two", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "interrupted"
    assert main(["compare", "runs/one", "runs/two"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["learning_rate", "0.004", "0.5"] in lines
    assert ["perplexity", "2.000", "4.000"] in lines
    assert not any(line[0] == "hidden" for line in lines)
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert main(["compare", "runs/one", "runs/two", "--json", "--out", "other.png"]) == 0
    assert json.loads(capsys.readouterr().out)["differences"] == {"learning_rate": [0.004, 0.5]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs"], "there is no directory runs: name the one that holds the runs"),
        (["runs", "."], ". holds no runs: name the directory that does, as in 'headgate runs DIR'"),
        (["compare", "a"], "give two runs or more to compare: headgate compare RUN RUN"),
        (["compare", "a", "b"], "a holds no run (there is no config.json): give the directory that train made"),
    ],
)
def test_mistakes(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert capsys.readouterr().err == f"headgate: {message}\n"
    with pytest.raises(InputError):
        find(tmp_path / "none")
