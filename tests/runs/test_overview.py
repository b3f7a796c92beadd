"""The overview of runs: their states and results, and the settings in which they differ."""

import errno
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from headgate import GRURegressor
from headgate.cli.main import main
from headgate.errors import InputError
from headgate.pictures.curve import draw_comparison
from headgate.runs.checkpoint import Checkpoint
from headgate.runs.overview import differences, find, look
from headgate.runs.run_directory import RunDirectory
from headgate.settings.run import Settings
from headgate.storage.lock import locked
from headgate.text.characters import CharacterTokenizer

SMALL = Settings().replaced(hidden_size=3, epochs=4, patience=2)


def make(path: Path, *, step: int = 0, progress: dict | None = None, **changes) -> RunDirectory:
    run = RunDirectory.create(path, SMALL.replaced(**changes), CharacterTokenizer.from_text("abc"), {})
    for epoch in range(1, (progress or {}).get("epoch", 0) + 1):
        held_out = [9.0, 5.0, 6.0, 7.0][epoch - 1]
        entry = {"epoch": epoch, "step": 10 * epoch, "perplexity": 8.0 / epoch, "held_out_perplexity": held_out}
        run.append("log.jsonl", json.dumps(entry) + "\n")
    if progress is not None:
        run.save(Checkpoint(step, {"weights": {"w": np.zeros(3, np.float32)}}, progress))
    return run


def test_states_of_runs(tmp_path: Path) -> None:
    make(tmp_path / "a-finished", step=40, progress={"epoch": 4, "waited": 1})
    make(tmp_path / "b-half", step=20, progress={"epoch": 2, "waited": 0})
    make(tmp_path / "c-stopped", step=30, progress={"epoch": 3, "waited": 2})
    make(tmp_path / "d-new")
    diverged = make(tmp_path / "e-diverged", step=10, progress={"epoch": 1, "waited": 0})
    diverged.append("log.jsonl", json.dumps({"step": 17, "epoch": 2, "diverged": True}) + "\n")
    make(tmp_path / "f-damaged").write("config.json", b"{")
    GRURegressor(hidden_size=2, epochs=1).fit(np.ones((4, 3)), np.arange(4.0)).save(tmp_path / "g-fitted")
    (tmp_path / "no run").mkdir()
    result = {o.path.name: o for o in find(tmp_path)}
    assert {name: o.state for name, o in result.items()} == {
        "a-finished": "finished", "b-half": "interrupted", "c-stopped": "stopped early", "d-new": "interrupted",
        "e-diverged": "diverged", "f-damaged": "damaged", "g-fitted": "fitted",
    }  # fmt: skip
    half = result["b-half"]
    assert (half.epoch, half.epochs, half.perplexity, half.held_out) == (2, 4, 4.0, 5.0)
    assert (result["d-new"].epoch, result["d-new"].perplexity, result["d-new"].held_out) == (0, None, None)
    assert result["a-finished"].held_out == 5.0  # the best, not the last
    assert (result["e-diverged"].epoch, result["e-diverged"].perplexity) == (1, 8.0)


def test_running_and_left_alone(tmp_path: Path) -> None:
    run = make(tmp_path / "run", step=20, progress={"epoch": 2, "waited": 0})
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    assert look(run.path).state == "interrupted"
    with locked(run.path):
        assert look(run.path).state == "running"
    assert look(run.path).state == "interrupted"
    assert {p: p.read_bytes() for p in before} == before


def test_size_and_age_of_runs(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    run.append("samples.txt", "x" * 10_000)
    for file in run.path.rglob("*"):
        if file.is_file():
            os.utime(file, (time.time() - 7200,) * 2)
    result = look(run.path)
    assert result.size == sum(p.stat().st_size for p in run.path.rglob("*") if p.is_file())
    assert 7190 < result.age < 7300


def test_differences_between_runs(tmp_path: Path) -> None:
    runs = [
        make(tmp_path / name, **changes) for name, changes in (("a", {}), ("b", {"hidden_size": 5}), ("c", {"seed": 1}))
    ]
    assert differences(runs) == {"hidden_size": [3, 5, 3], "seed": [0, 0, 1]}
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
    assert not any(line[0] == "hidden_size" for line in lines)
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert main(["compare", "runs/one", "runs/two", "--json", "--out", "other.png"]) == 0
    assert json.loads(capsys.readouterr().out)["differences"] == {"learning_rate": [0.004, 0.5]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs"], "there is no directory runs: name the one that holds the runs"),
        (["runs", "."], ". holds no runs: name the directory that does, as in 'headgate runs DIR'"),
        (["compare", "a"], "give at least two runs to compare: headgate compare RUN RUN"),
        (
            ["compare", "a", "b"],
            "a holds no run (there is no config.json): name a directory that headgate train created",
        ),
    ],
)
def test_mistakes_are_one_sentence(
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


def test_one_bad_run_does_not_hide_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "runs" / "good", step=40, progress={"epoch": 4, "waited": 0})
    make(tmp_path / "runs" / "better", step=40, progress={"epoch": 4, "waited": 0}, seed=5)
    make(tmp_path / "runs" / "broken").write("config.json", b"{")
    make(tmp_path / "runs" / "odd", step=40, progress={"epoch": 4, "waited": 0}).write("log.jsonl", b'{"perplexity":1}')
    make(tmp_path / "runs" / "shut")
    (tmp_path / "runs" / "half" / "checkpoints").mkdir(parents=True)
    make(tmp_path / "runs" / "directory").write("x", b"")
    (tmp_path / "runs" / "directory" / "tokenizer.json").unlink()
    (tmp_path / "runs" / "directory" / "tokenizer.json").mkdir()
    real = Path.read_bytes

    def read(self: Path) -> bytes:
        if self.parent.name == "shut":
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return real(self)

    monkeypatch.setattr(Path, "read_bytes", read)
    assert main(["runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0]: line.split()[1] for line in lines[1:7]} == {
        "runs/better": "finished", "runs/broken": "damaged", "runs/directory": "unreadable", "runs/good": "finished",
        "runs/odd": "damaged", "runs/shut": "unreadable",
    }  # fmt: skip
    output = "\n".join(lines[7:])
    assert "runs/broken/config.json is damaged" in output
    assert "runs/shut/config.json: Permission denied" in output
    assert "runs/odd: a report or the checkpoint lacks 'epoch'" in output
    assert main(["runs", "--json"]) == 0
    result = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [o["problem"] is None for o in result] == [o["state"] == "finished" for o in result]
    assert main(["compare", "runs/good", "runs/broken", "runs/better", "runs/shut"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[0].split() == ["runs/good", "runs/better"]
    assert captured.err.count("left out: ") == 2
    assert "runs/broken/config.json is damaged" in captured.err
    assert main(["compare", "runs/good", "runs/broken"]) == 2
    assert "runs/broken/config.json is damaged" in capsys.readouterr().err


def test_the_overview_opens_nothing_for_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read-only directories, for instance of another user, can be listed."""
    run = make(tmp_path / "run", step=20, progress={"epoch": 2, "waited": 0})
    with locked(run.path):
        pass
    real = Path.open

    def read_only(self: Path, mode: str = "r", *arguments: object, **options: object) -> object:
        if set(mode) & set("wa+x"):
            raise PermissionError(errno.EROFS, "Read-only file system", str(self))
        return real(self, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", read_only)
    assert (look(run.path).state, look(run.path).problem) == ("interrupted", None)


def test_a_file_that_disappears_while_it_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of a checkpoint may disappear while a run trains."""
    make(tmp_path / "run")
    (tmp_path / "run" / "gone").symlink_to("nowhere")
    real, seen = Path.stat, []

    def stat(self: Path, **options: bool) -> os.stat_result:
        seen.append(self.name)
        if seen.count("tokenizer.json") == 2:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(self))
        return real(self, **options)

    monkeypatch.setattr(Path, "stat", stat)
    assert look(tmp_path / "run").size > 0


def test_a_clock_that_was_set_back(tmp_path: Path) -> None:
    make(tmp_path / "run")
    for file in (tmp_path / "run").rglob("*"):
        os.utime(file, (time.time() + 7200,) * 2)
    assert look(tmp_path / "run").age == 0


@pytest.mark.parametrize(
    ("name", "begins"),
    [("c.png", b"\x89PNG"), ("c.svg", b"<?xml"), ("c.pdf", b"%PDF"), ("c.jpg", b"\xff\xd8"), ("C.JPEG", b"\xff\xd8")],
)
def test_the_suffix_determines_the_format_of_a_picture(tmp_path: Path, name: str, begins: bytes) -> None:
    draw_comparison({"one": [{"epoch": 1, "perplexity": 2.0}]}, tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(begins)


def test_pictures_that_cannot_be_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        make(tmp_path / name, step=40, progress={"epoch": 4, "waited": 0})
    for out, message in (
        ("c.xyz", "c.xyz: the name of a picture must end in .png, .svg, .pdf, .jpg or .jpeg"),
        ("curves", "curves: the name of a picture must end in"),
        ("none/c.png", "none/c.png: there is no directory none: create it, or choose another place"),
    ):
        assert main(["compare", "one", "two", "--out", out]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert f"headgate: {message}" in captured.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "two"]


@pytest.mark.skipif(sys.platform != "linux", reason="limits of the size of a file")
def test_a_failed_picture_leaves_the_previous_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        make(tmp_path / name, step=40, progress={"epoch": 4, "waited": 0})
    (tmp_path / "c.png").write_bytes(b"before")
    draw_comparison({}, tmp_path / "warm.png")  # fills matplotlib's caches
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        code = main(["compare", "one", "two", "--out", "c.png"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2
    assert capsys.readouterr().err.startswith("headgate: File too large: free some space and try again; ")
    assert (tmp_path / "c.png").read_bytes() == b"before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.png", "one", "two", "warm.png"]


def test_a_picture_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "c.png").symlink_to("there/c.png")
    draw_comparison({}, tmp_path / "c.png")
    assert (tmp_path / "c.png").is_symlink()
    assert (tmp_path / "there" / "c.png").read_bytes().startswith(b"\x89PNG")
