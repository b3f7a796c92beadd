"""headgate fit and predict on untidy tables, with wrong flags, full disks, signals and closed streams."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import headgate
from headgate.cli.main import main
from headgate.estimators.sequence import GRURegressor
from headgate.runs import estimator_directory
from headgate.storage import files
from headgate.training import fitting

QUICK = ("--epochs", "3", "--hidden-size", "4")
ROWS = ("--target", "price", "--features", "a", "b", "c")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A CSV file of 20 rows: three steps a, b, c, their sum, price, and its class, kind."""
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(20, 3)).round(3), columns=["a", "b", "c"])
    frame["price"] = frame.sum(axis=1).round(3)
    frame["kind"] = np.where(frame["price"] > 0, "up", "down")
    frame.to_csv(tmp_path / "t.csv", index=False)
    return tmp_path / "t.csv"


@pytest.fixture
def months(tmp_path: Path) -> Path:
    """A CSV file of one series: six years of months."""
    days = pd.date_range("2018-01-01", periods=72, freq="MS")
    frame = pd.DataFrame({"day": days.strftime("%d.%m.%Y"), "sold": 5 + np.sin(np.arange(72) * np.pi / 6)})
    frame.to_csv(tmp_path / "m.csv", index=False)
    return tmp_path / "m.csv"


SERIES = (
    "--target",
    "sold",
    "--time",
    "day",
    "--horizon",
    "3",
    "--window",
    "12",
    "--epochs",
    "2",
    "--hidden-size",
    "4",
)


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run a command that must end with exit code 2, one line on standard error and no training; return that line."""

    def run(*arguments: object) -> str:
        with monkeypatch.context() as patch:
            patch.setattr(fitting, "_epoch", lambda *_: pytest.fail("trained"))
            assert main([str(a) for a in arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("headgate: ")
        assert error.count("\n") == 1, error
        return error.removeprefix("headgate: ").rstrip("\n")

    return run


def run(*arguments: object) -> None:
    assert main([str(a) for a in arguments]) == 0


def edited(file: Path, **changes: Any) -> Path:
    """Write a copy of a table with the fourth value of some columns changed."""
    frame = pd.read_csv(file, dtype=str)
    for name, value in changes.items():
        frame.loc[3, name] = value
    frame.to_csv(file.with_name("edited.csv"), index=False)
    return file.with_name("edited.csv")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*ROWS, "--class-weight", "balanced"), "--class-weight is for classes, but price is a number: omit it, "
                                                "or give --task classification"),
        ((*ROWS, "--backtest", "2"), "--backtest is for forecasts: give --horizon, or omit it"),
        ((*ROWS, "--frequency", "D"), "--frequency is only for forecasts: give --horizon, or omit --frequency"),
        ((*ROWS, "--time", "a"), "column a is used twice: --target, --time, --group and --features must name different "
         "columns"),
        (("--target", "price", "--time", "a"), "--time does nothing here, because each row is a sequence of its "
         "own: name the column that groups rows into sequences with --group, or give --horizon to forecast"),
        ((*ROWS, "--patience", "3"), "--patience does nothing without --early-stopping: give both"),
        ((*ROWS, "--validation-fraction", "0.3"), "--validation-fraction does nothing without --early-stopping: "
                                                  "give both"),
        ((*ROWS, "--overwrite"), "--overwrite replaces the run in --out: give --out, or omit --overwrite to create "
                                 "a new run"),
        ((*ROWS, "--seed", "-1"), "--seed must be at least 0 and below 2**32, got -1"),
        ((*ROWS, "--seed", 2**32), "--seed must be at least 0 and below 2**32, got 4294967296"),
    ],
    ids=str,
)  # fmt: skip
def test_flags_without_effect_are_refused(
    table: Path, fails: Callable[..., str], arguments: tuple[str, ...], message: str
) -> None:
    assert fails("fit", table, *arguments) == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--test", "0.2"), "--test cannot be used with a forecast: test it with --backtest, or hold out the end "
                            "of its series with --calibration"),
        (("--task", "regression"), "--task regression does not go with a forecast: omit --task or --horizon"),
        (("--frequency", "0D"), "--frequency 0D is invalid: steps must go forward, as with D, MS or 15min"),
        (("--frequency=-1D",), "--frequency -1D is invalid: steps must go forward, as with D, MS or 15min"),
        (("--frequency", "ME"), "--frequency ME has no step at 2018-01-01 00:00:00 of series 'sold', and 72 rows "
                                "would be "
         "lost: give the frequency of the dates, or omit --frequency"),
        (("--horizon", 2**40), "--horizon 1099511627776 needs more than the 72 rows of PATH: give a smaller "
                               "horizon or more rows"),
        (("--horizon", -1), "--horizon must be at least 1, got -1"),
    ],
    ids=str,
)  # fmt: skip
def test_flags_that_forecasts_refuse(
    months: Path, fails: Callable[..., str], arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    refusal = fails("fit", months, *SERIES, *arguments, "--out", tmp_path / "run")
    assert refusal.replace(str(months), "PATH") == message
    assert not (tmp_path / "run").exists()


def test_bad_cells_are_found_before_training(table: Path, fails: Callable[..., str], tmp_path: Path) -> None:
    """They may be among the samples to train on or to test with."""
    out = ("--out", tmp_path / "new" / "run")
    fill = ": fill in numbers, or leave such rows out"
    assert fails("fit", edited(table, b=np.nan), *ROWS, *out) == f"column b has no value in line 5 (1 in all){fill}"
    assert fails("fit", edited(table, b="1e400"), *ROWS, *out) == (
        f"column b has infinity (or a number beyond 1e308) in line 5 (1 in all){fill}"
    )
    assert fails("fit", edited(table, price="-inf"), *ROWS, *out) == (
        f"column price has -infinity (or a number beyond 1e308) in line 5 (1 in all){fill}"
    )
    assert fails("fit", edited(table, b="?"), *ROWS, *out).startswith(
        "column b holds '?' in line 5, which is not a number"
    )
    frame = pd.read_csv(table)
    frame["group"], frame["price"] = np.arange(20) // 4, 1.0
    frame.loc[frame["group"] == 2, "group"] = np.nan
    frame.to_csv(table.with_name("g.csv"), index=False)
    assert fails("fit", table.with_name("g.csv"), *ROWS, "--group", "group", *out) == (
        "column group has no value in line 10 (4 in all), but each row must belong to a group: fill it in, or "
        "remove such rows"
    )
    frame["price"] = pd.date_range("2024-01-01", periods=20)
    frame.to_csv(table.with_name("d.csv"), index=False)
    assert fails("fit", table.with_name("d.csv"), *ROWS, *out) == (
        "column price holds 20 different texts for 20 sequences ('2024-01-01', '2024-01-02', ...), which cannot "
        "be classes: name another --target, write numbers, or give --task classification"
    )
    frame.to_parquet(table.with_name("d.parquet"))
    assert fails("fit", table.with_name("d.parquet"), *ROWS, *out) == (
        "column price holds dates, not numbers or classes: name another --target"
    )
    assert not (tmp_path / "new").exists()


def test_unusable_directories_are_refused_before_training(
    table: Path, fails: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    assert fails("fit", table, *ROWS, "--out", tmp_path / "file") == f"{tmp_path}/file is a file: name a directory"
    assert "Not a directory" in fails("fit", table, *ROWS, "--out", tmp_path / "file" / "run")
    with estimator_directory.claim(tmp_path / "run", overwrite=False):
        assert f"{tmp_path}/run is in use by process" in fails("fit", table, *ROWS, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="needs root, to become another user")
def test_an_unwritable_directory_is_refused(table: Path, tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    os.chmod(folder, 0o755)
    code = f"""
import os, sys
from headgate.runs import estimator_directory
from headgate.cli.main import main
import torch, headgate.estimators.sequence
os.seteuid(65534)
try:
    estimator_directory.claim({str(folder)!r}, overwrite=False).__enter__()
except OSError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == f"[Errno 13] Permission denied: '{folder}'\n", done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
@pytest.mark.parametrize("series", [False, True])
def test_a_signal_saves_the_model_so_far(
    table: Path, months: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    name: str, code: int, series: bool,
) -> None:  # fmt: skip
    epochs = [0]
    epoch = fitting._epoch

    def third(*arguments: Any) -> float:
        epochs[0] += 1
        if epochs[0] == 3:
            os.kill(os.getpid(), getattr(signal, name))
        return epoch(*arguments)

    monkeypatch.setattr(fitting, "_epoch", third)
    out = tmp_path / "run"
    command = ("fit", months, *SERIES) if series else ("fit", table, *ROWS, *QUICK)
    assert main([str(a) for a in (*command, "--epochs", "50", "--out", out)]) == code
    assert capsys.readouterr().err.splitlines()[-1] == f"interrupted in epoch 3: the model so far is in {out}"
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    assert len((out / "log.jsonl").read_text().splitlines()) == 3
    run("predict", out, *([] if series else [table]))
    assert capsys.readouterr().out.count("\n") == (4 if series else 21)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_a_second_signal_stops_at_once(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(0.01)

    monkeypatch.setattr(fitting, "_epoch", interrupt)
    out = tmp_path / "new" / "run"
    assert main([str(a) for a in ("fit", table, *ROWS, "--out", out)]) == 143
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted: nothing was written"
    assert not out.parent.exists()


def test_a_disk_that_fills_during_training_loses_no_model(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(estimator_directory.Place, "write", full)
    with monkeypatch.context() as patch:  # the save elsewhere works
        write = estimator_directory.write

        def elsewhere(*arguments: Any, **options: Any) -> None:
            patch.undo()
            monkeypatch.undo()
            write(*arguments, **options)

        patch.setattr(estimator_directory, "write", elsewhere)
        assert main([str(a) for a in ("fit", table, *ROWS, *QUICK, "--out", tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        f"headgate: {tmp_path}/run could not be written (No space left on device), so the model was saved"
    )
    other = Path(error.split(" was saved in ")[1].split(":")[0])
    run("predict", other, table)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux mounts")
def test_runs_on_a_mount_point_a_small_disk_and_through_a_link(
    table: Path, tmp_path: Path, fails: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(disk)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        run("fit", table, *ROWS, *QUICK, "--out", disk)
        run("fit", table, *ROWS, *QUICK, "--out", disk, "--overwrite")
        (tmp_path / "link").symlink_to(disk)
        run("fit", table, *ROWS, *QUICK, "--out", tmp_path / "link", "--overwrite", "--seed", "3")
        assert (tmp_path / "link").is_symlink()
        before = (disk / "model.safetensors").read_bytes()
        message = fails("fit", table, *ROWS, "--out", disk, "--overwrite", "--hidden-size", "600")
        assert message.startswith(f"{disk} cannot hold the 5.")
        assert ": No space left on device: free some space, or name another directory" in message
        assert (disk / "model.safetensors").read_bytes() == before
        out = disk / "p.csv"
        out.write_text("before")
        (disk / "fill").write_bytes(bytes(os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize))
        assert main(["predict", str(disk), str(table), "--out", str(out)]) == 2
        assert "headgate: No space left on device" in capsys.readouterr().err
        assert out.read_text() == "before"
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_simultaneous_fits_of_a_table_use_different_directories(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with estimator_directory.claim("runs/t", overwrite=False):
        run("fit", table, *ROWS, *QUICK)
    assert [p.name for p in Path("runs").iterdir()] == ["t-2"]


def test_predict_answers_rows_without_a_target(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.read_csv(table)
    frame["class"] = (frame["price"] > 0).astype(int)
    frame.loc[[2, 7, 19], ["price", "class", "kind"]] = np.nan
    frame.to_csv(table, index=False)
    for target in ("price", "class", "kind"):
        out = tmp_path / target
        task = () if target == "price" else ("--task", "classification")
        run("fit", table, "--target", target, "--features", "a", "b", "c", *QUICK, *task, "--out", out)
        assert f"3 samples without {target} left out: use headgate predict for them\n" in capsys.readouterr().out
        run("predict", out, table)
        printed = capsys.readouterr()
        answer = pd.read_csv(io.StringIO(printed.out))
        assert answer["row"].tolist() == list(range(1, 21))
        assert not answer[target].isna().any()
        assert printed.err.endswith(" over 17 sequences\n")
        if target == "class":
            assert set(printed.out.split()[1:]) <= {f"{row},{label}" for row in range(1, 21) for label in (0, 1)}


def test_the_date_format_is_printed_and_used_for_later_tables(
    months: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    frame = pd.read_csv(months)
    frame["day"] = pd.date_range("2018-01-31", periods=72, freq="ME").strftime("%d/%m/%Y")
    frame.to_csv(months, index=False)
    run("fit", months, *SERIES, "--window", "5", "--out", out)
    assert "column day: dates read as day/month/year\n" in capsys.readouterr().out
    assert json.loads((out / "data.json").read_text())["dates"] == "day/month/year"
    later = pd.DataFrame({"day": pd.date_range("2023-01-01", periods=12).strftime("%d/%m/%Y"), "sold": np.arange(12.0)})
    later.to_csv(tmp_path / "later.csv", index=False)  # nothing in it tells days from months
    run("predict", out, tmp_path / "later.csv", "--coverage", "0")
    assert capsys.readouterr().out.splitlines()[1].startswith("2023-01-13,")


def test_rows_without_a_target_set_the_horizon(
    months: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    frame = pd.read_csv(months)
    frame.loc[frame.index[-2:], "sold"] = np.nan
    frame.to_csv(months, index=False)
    run("fit", months, *SERIES, "--out", out)
    assert "2 rows at the end without sold left out: use headgate predict for them\n" in capsys.readouterr().out
    for arguments in ((out,), (out, months)):
        run("predict", *arguments)
        rows = [line.split(",")[0] for line in capsys.readouterr().out.splitlines()[1:]]
        assert rows == ["2023-11-01", "2023-12-01", "2024-01-01"][: 3 if len(arguments) == 1 else 2]
    frame.loc[frame.index[-5:], "sold"] = np.nan
    frame.to_csv(months, index=False)
    run("predict", out, months)
    printed = capsys.readouterr()
    assert printed.out.count("\n") == 4
    assert printed.err.endswith(
        "3 of the 5 rows without sold are forecast, the horizon of fit: use --horizon 5 --coverage 0 for all\n"
    )


def test_a_forecaster_without_intervals_warns_once(
    months: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    run("fit", months, *SERIES, "--calibration", "0", "--out", out, "--quiet")
    capsys.readouterr()
    run("predict", out)
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0] == "day,forecast"
    assert printed.err == (
        "headgate: warning: there are no intervals, because none were calibrated: fit a longer series, or "
        "forecast without them with --coverage 0\n"
    )
    run("predict", out, "--coverage", "0")
    assert capsys.readouterr().err == ""


def test_predict_refuses_wrong_flags_and_tables(
    table: Path, months: Path, tmp_path: Path, fails: Callable[..., str]
) -> None:
    rows, series = tmp_path / "rows", tmp_path / "series"
    run("fit", table, *ROWS, *QUICK, "--out", rows, "--quiet")
    run("fit", months, *SERIES, "--out", series, "--quiet")
    assert fails("predict", rows, table, "--horizon", "3") == (
        f"--horizon is for forecasts, but {rows} holds a GRURegressor: omit it"
    )
    assert fails("predict", rows, table, "--coverage", "0") == (
        f"--coverage is for forecasts, but {rows} holds a GRURegressor: omit it"
    )
    assert fails("predict", series, "--probabilities") == (
        f"--probabilities is for classes, but {series} holds a GRUForecaster: omit it"
    )
    assert fails("predict", rows, table, "--out", "/nope/x.csv") == (
        "there is no directory /nope for --out /nope/x.csv: create it, or name another file"
    )
    assert fails("predict", series, "--horizon", 2**40) == (
        "--horizon must be at least 1 and at most 100000, got 1099511627776"
    )
    assert fails("predict", rows, edited(table, a=np.nan)) == (
        "column a has no value in line 5 (1 in all): fill in numbers, or leave such rows out"
    )


def test_columns_may_have_the_names_of_output_columns(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = pd.read_csv(table).rename(columns={"price": "row"})
    frame.to_csv(table, index=False)
    run("fit", table, "--target", "row", "--features", "a", "b", "c", *QUICK, "--out", tmp_path / "run", "--quiet")
    run("predict", tmp_path / "run", table)
    assert capsys.readouterr().out.splitlines()[0] == "row number,row"
    steps = pd.DataFrame({"forecast": range(60), "ds": np.sin(np.arange(60.0)), "y": np.cos(np.arange(60.0))})
    steps.to_csv(tmp_path / "s.csv", index=False)
    run("fit", tmp_path / "s.csv", "--target", "ds", "--time", "forecast", "--horizon", "2", "--features", "y",
        "--window", "5", *QUICK, "--out", tmp_path / "series", "--quiet")  # fmt: skip
    more = pd.DataFrame({"forecast": [60, 61], "ds": [np.nan] * 2, "y": np.cos([60.0, 61.0])})
    pd.concat([steps, more]).to_csv(tmp_path / "s.csv", index=False)
    run("predict", tmp_path / "series", tmp_path / "s.csv")
    assert capsys.readouterr().out.splitlines()[0] == "forecast,lower,forecast of ds,upper"
    loaded = headgate.GRUForecaster.load(tmp_path / "series")
    np.testing.assert_allclose(loaded.panel_.series[0].values, steps["ds"])  # not the feature named y


def test_runs_of_earlier_versions_are_read(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They lack the checksums of files and the format of dates, and their column names are not stripped."""
    out = tmp_path / "run"
    run("fit", table, *ROWS, *QUICK, "--out", out, "--quiet")
    run("predict", out, table)
    answer = capsys.readouterr().out
    config = json.loads((out / "config.json").read_text())
    del config["files"], config["replaced"]
    (out / "config.json").write_text(json.dumps(config))
    roles = json.loads((out / "data.json").read_text())
    del roles["dates"]
    roles["features"] = ["a", " b", "c "]
    (out / "data.json").write_text(json.dumps(roles))
    run("predict", out, table)
    assert capsys.readouterr().out == answer


def cli(*arguments: object, redirect: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    line = " ".join([f'"{sys.executable}"', "-m", "headgate", *(f"'{a}'" for a in arguments), redirect])
    return subprocess.run(["sh", "-c", line], capture_output=True, env={**os.environ, **environment})


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
def test_output_in_other_encodings_and_to_closed_streams(table: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(table).rename(columns={"price": "价格 ß"})
    frame.to_csv(table, index=False)
    out = tmp_path / "run"
    command = ("fit", table, "--target", "价格 ß", "--features", "a", "b", "c", *QUICK, "--out", out)
    for encoding, shown in (("latin-1", b"\\u4ef7\\u683c \xdf"), ("gbk", "价格 ".encode("gbk") + b"\\xdf")):
        done = cli(*command, "--overwrite", PYTHONIOENCODING=encoding)
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"regression of " + shown + b"\n" in done.stdout
        done = cli("predict", out, table, PYTHONIOENCODING=encoding)
        assert (done.returncode, done.stdout.splitlines()[0]) == (0, b"row," + shown)
    done = cli("predict", out, table, redirect="2>&-")
    assert (done.returncode, done.stdout.count(b"\n")) == (0, 21)
    assert done.stdout.startswith("row,价格 ß\n".encode())
    done = cli("predict", out, table, redirect=">&-")
    assert done.stderr.startswith(b"headgate: standard output is closed: name a file with --out\n")


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX pipes")
def test_closed_or_broken_output_does_not_stop_fit(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = os.pipe()
    os.close(read)
    stream = os.fdopen(write, "w")
    for number, output in enumerate((stream, None)):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", output)
            with contextlib.suppress(AttributeError):  # main itself writes to the closed output
                assert main([str(a) for a in ("fit", table, *ROWS, *QUICK, "--out", tmp_path / f"{number}")]) in (
                    0,
                    141,
                )
        assert files.estimator_in(tmp_path / f"{number}") == "GRURegressor"
    with contextlib.suppress(BrokenPipeError):
        stream.close()


def test_pictures_have_the_format_of_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forecaster = headgate.GRUForecaster(horizon=2, window=4, season_length=1, hidden_size=4, epochs=1, random_state=0)
    forecaster.fit(np.sin(np.arange(40.0)))
    begins = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF", "jpg": b"\xff\xd8\xff", "webp": b"RIFF"}
    for ending, begin in begins.items():
        forecaster.plot(path=tmp_path / f"x.{ending}")
        assert (tmp_path / f"x.{ending}").read_bytes().startswith(begin)
    with pytest.raises(ValueError, match=r"^a picture cannot be written as x\.bmp: its name must end with \..*\.png"):
        forecaster.plot(path=tmp_path / "x.bmp")
    before = (tmp_path / "x.png").read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        forecaster.plot(path=tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes() == before


def test_sample_weights_whose_sum_overflows() -> None:
    X, y = np.random.default_rng(0).normal(size=(12, 5, 2)), np.arange(12.0)
    options = {"hidden_size": 4, "epochs": 2, "random_state": 0}
    huge = GRURegressor(**options).fit(X, y, np.full(12, 1e308))
    np.testing.assert_allclose(huge.predict(X), GRURegressor(**options).fit(X, y, np.ones(12)).predict(X), rtol=1e-6)
