"""headgate fit and predict: from a table to a run directory and back, and the commands that are refused."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import headgate
from headgate.cli import fit as command
from headgate.cli.main import main

QUICK = ("--epochs", "4", "--hidden-size", "8")


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """rides.csv (sequences of 3 to 8 steps, with a number and a class each) and shops.parquet (two daily series)."""
    folder, random = tmp_path_factory.mktemp("tables"), np.random.default_rng(0)
    steps = [(n, t, *random.normal(size=2)) for n in range(40) for t in range(random.integers(3, 9))]
    rides = pd.DataFrame(steps, columns=["ride", "minute", "speed", "slope"])
    rides["price"] = rides.groupby("ride")["speed"].transform("sum").round(6)
    rides["kind"] = np.where(rides["price"] > 0, "up", "down")
    rides.to_csv(folder / "rides.csv", index=False)
    days = pd.date_range("2024-01-01", periods=90, freq="D")
    shops = [
        pd.DataFrame({"shop": shop, "day": days, "sold": level + np.sin(np.arange(90) * 2 * np.pi / 7)})
        for shop, level in (("north", 3.0), ("south", 50.0))
    ]
    pd.concat(shops).to_parquet(folder / "shops.parquet", index=False)
    return folder


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must end with exit code 2 and one line on standard error; return that line."""

    def run(*arguments: object) -> str:
        assert main([str(a) for a in arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("headgate: ")
        assert error.count("\n") == 1, error
        return error.removeprefix("headgate: ").rstrip("\n")

    return run


def run(*arguments: object) -> None:
    assert main([str(a) for a in arguments]) == 0


def predicted(capsys: pytest.CaptureFixture[str], *arguments: object) -> pd.DataFrame:
    capsys.readouterr()
    run("predict", *arguments)
    out = capsys.readouterr().out
    return pd.read_csv(pd.io.common.StringIO(out))


def test_regression(
    tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rides = tables / "rides.csv"
    run("fit", rides, "--target", "price", "--group", "ride", "--time", "minute", "--features", "speed", "slope",
        *QUICK[2:], "--epochs", "40", "--test", "0.25")  # fmt: skip
    output = capsys.readouterr().out
    assert "40 sequences of 3 to 8 steps, 2 features; regression of price" in output
    assert "epoch 40/40  loss " in output
    assert "on 10 held-out sequences" in output
    assert "predict runs/rides NEW.csv" in output
    folder = tmp_path / "runs" / "rides"
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.json", "curve.png", "data.json", "log.jsonl", "model.safetensors",
    ]  # fmt: skip
    assert [json.loads(line)["epoch"] for line in (folder / "log.jsonl").read_text().splitlines()] == [*range(1, 41)]

    table = pd.read_csv(rides)
    answer = predicted(capsys, folder, rides)
    regressor = headgate.GRURegressor.load(folder)
    X = [rows[["speed", "slope"]].to_numpy() for _, rows in table.groupby("ride")]
    assert answer["ride"].tolist() == list(range(40))
    np.testing.assert_allclose(answer["price"], regressor.predict(X), rtol=1e-12)
    truth = table.groupby("ride")["price"].first()
    assert np.corrcoef(answer["price"], truth)[0, 1] > 0.8

    run("predict", folder, rides, "--out", tmp_path / "p.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "p.parquet"), answer)
    assert capsys.readouterr().err == f"R2 {regressor.score(X, truth):.3f} over 40 sequences\n"
    shuffled = table.sample(frac=1, random_state=0).drop(columns=["price", "kind"])
    shuffled.to_csv(tmp_path / "new.csv", index=False)
    again = predicted(capsys, folder, tmp_path / "new.csv").sort_values("ride")
    assert again["price"].tolist() == answer["price"].tolist()  # sequences are not mixed up


def test_classification_is_reproducible_and_has_probabilities(
    tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("fit", tables / "rides.csv", "--target", "kind", "--group", "ride", "--features", "speed", *QUICK)
    run(*arguments, "--out", tmp_path / "a", "--class-weight", "balanced")
    output = capsys.readouterr().out
    assert "classification of kind" in output
    assert "on 8 held-out sequences (always " in output
    run(*arguments, "--out", tmp_path / "b", "--class-weight", "balanced", "--quiet")
    assert capsys.readouterr().out == ""
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]
    run(*arguments, "--out", tmp_path / "c", "--class-weight", "balanced", "--quiet", "--seed", "1")
    assert (tmp_path / "c" / "model.safetensors").read_bytes() != weights[0]
    answer = predicted(capsys, tmp_path / "a", tables / "rides.csv", "--probabilities")
    assert answer.columns.tolist() == ["ride", "kind", "probability of down", "probability of up"]
    likely = np.where(answer["probability of up"] > 0.5, "up", "down")
    assert answer["kind"].tolist() == likely.tolist()


def test_forecast_of_many_series(tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shops = tables / "shops.parquet"
    run("fit", shops, "--target", "sold", "--time", "day", "--group", "shop", "--horizon", "5", "--backtest", "2",
        *QUICK, "--epochs", "30", "--out", tmp_path / "run", "--difference", "none", "--window", "14")  # fmt: skip
    output = capsys.readouterr().out
    assert "backtest: mean absolute scaled error" in output
    assert "2 series, 180 steps, season 7; GRU of 8 units over 14 values, recursive, horizon 5" in output
    assert (tmp_path / "run" / "forecast.png").read_bytes().startswith(b"\x89PNG")
    answer = predicted(capsys, tmp_path / "run")
    assert answer.columns.tolist() == ["shop", "day", "lower", "forecast", "upper"]
    assert answer["day"].tolist()[:5] == [f"2024-03-{day:02}" for day in range(31, 32)] + [
        f"2024-04-{day:02}" for day in range(1, 5)
    ]
    truth = [level + np.sin(2 * np.pi * t / 7) for level in (3, 50) for t in range(90, 95)]
    np.testing.assert_allclose(answer["forecast"], truth, atol=0.5)
    assert (answer["lower"] < answer["forecast"]).all()
    plain = predicted(capsys, tmp_path / "run", shops, "--coverage", "0", "--horizon", "7")
    assert plain.columns.tolist() == ["shop", "day", "forecast"]
    assert plain["forecast"].tolist()[:5] == answer["forecast"].tolist()[:5]  # the same history


def test_forecast_with_features_that_are_known_ahead(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fails: Callable[..., str]
) -> None:
    random = np.random.default_rng(1)
    table = pd.DataFrame({"step": range(100), "push": random.normal(size=100)})
    table["y"] = 2 * table["push"] + 1
    table[:90].to_csv(tmp_path / "past.csv", index=False)
    later = table.assign(y=table["y"].where(table["step"] < 90))
    later.to_csv(tmp_path / "all.csv", index=False)
    folder = tmp_path / "run"
    run("fit", tmp_path / "past.csv", "--target", "y", "--time", "step", "--horizon", "4", "--features", "push",
        "--difference", "none", "--window", "5", "--hidden-size", "16", "--epochs", "40", "--out", folder)  # fmt: skip
    answer = predicted(capsys, folder, tmp_path / "all.csv")
    assert answer["step"].tolist() == [90, 91, 92, 93]
    np.testing.assert_allclose(answer["forecast"], table["y"][90:94], atol=0.5)
    assert fails("predict", folder) == (
        "the forecast needs push of the future steps: give a table whose last rows have these and no y"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give a table and the column to predict: headgate fit DATA --target COLUMN"),
        (("--target", "price", "--group", "ride", "--window", "3"),
         "--window is for forecasts: give --horizon, or omit it"),
        (("--target", "price", "--time", "minute", "--horizon", "3", "--pool", "max"),
         "--pool cannot be used with a forecast: omit it"),
        (("--target", "price", "--group", "ride", "--features", "speed", "--hidden-size", "0", "--epochs", "-1"),
         "hidden_size must be at least 1 and finite, got 0; epochs must be at least 1 and finite, got -1"),
        (("--target", "price", "--group", "ride", "--features", "speed", "--test", "1"),
         "--test must be at least 0 and below 1, got 1.0"),
        (("--target", "price", "--group", "ride"),
         "column kind holds 'down' in line 2, which is not a number: write numbers (classes as columns of 0 and 1), or "
         "choose other columns"),
        (("--target", "price", "--time", "minute", "--group", "ride", "--horizon", "3", "--epochs", "auto"),
         "epochs must be a whole number, got 'auto'"),
        (("--target", "price", "--time", "minute", "--horizon", "0", "--features", "speed"),
         "--horizon must be at least 1, got 0"),
        (("--target", "price", "--time", "minute", "--horizon", "2", "--features", "speed"),
         "series 'price' has 0 twice, in line 2 and line 10: keep one row of each, or name the column that tells "
         "series apart with --group"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)  # fmt: skip
def test_fit_refuses_wrong_flags_and_tables(
    tables: Path, tmp_path: Path, fails: Callable[..., str], arguments: tuple[str, ...], message: str
) -> None:
    out = tmp_path / "run"
    assert fails("fit", *([tables / "rides.csv"] if arguments else []), *arguments, "--out", out) == message
    assert not out.exists()


def test_fit_refuses_words_for_epochs(tables: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", str(tables / "rides.csv"), "--target", "price", "--epochs", "soon"])
    assert "argument -e/--epochs: must be auto or a whole number, got 'soon'" in capsys.readouterr().err


def test_fit_takes_auto_for_epochs(tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headgate.estimators.sequence.LEAST_EPOCHS", 3)
    run("fit", tables / "rides.csv", "--target", "price", "--group", "ride", "--features", "speed", *QUICK[2:],
        "--epochs", "auto", "--out", tmp_path / "run", "--quiet")  # fmt: skip
    assert headgate.GRURegressor.load(tmp_path / "run").epochs == "auto"


def test_predict_refuses_wrong_flags_tables_and_runs(
    tables: Path, tmp_path: Path, fails: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    rides, out = tables / "rides.csv", tmp_path / "run"
    run("fit", rides, "--target", "price", "--group", "ride", "--features", "speed", *QUICK, "--out", out, "--quiet")
    assert fails("predict", out) == "give a table to predict price from: headgate predict RUN DATA"
    assert fails("predict", out, tables / "shops.parquet") == ("the table has no column ride: known: day, shop, sold")
    assert fails("predict", out, rides, "--probabilities") == (
        "--probabilities is for classes, but price is a number: omit it"
    )
    assert fails("predict", out, rides, "--out", "x.txt") == "--out must be a .csv or .parquet file, got x.txt"
    assert "holds no fitted estimator (there is no config.json)" in fails("predict", tmp_path / "none")
    headgate.GRURegressor.load(out).save(tmp_path / "python")
    assert "was saved from Python (there is no data.json)" in fails("predict", tmp_path / "python", rides)
    (out / "data.json").write_text('{"task": 1}')
    assert "data.json is damaged" in fails("predict", out, rides)


def test_runs_of_another_kind_are_refused_and_named(tables: Path, tmp_path: Path, fails: Callable[..., str]) -> None:
    out, text = tmp_path / "run", tmp_path / "t.txt"
    arguments = ("fit", tables / "rides.csv", "--target", "price", "--group", "ride", "--features", "speed", *QUICK)
    run(*arguments, "--out", out, "--quiet")
    refusal = f"{out} holds a GRURegressor, not a language model: use headgate predict"
    assert fails("generate", out, "--prefix", "a") == refusal
    assert fails("evaluate", out) == refusal
    text.write_text("water and stone. " * 40)
    assert fails("train", text, "--out", out, "--overwrite", "--batch-size", "2", "--sequence-length", "5") == refusal
    before = (out / "model.safetensors").read_bytes()
    taken = f"{out} already holds a fitted estimator: replace it with overwrite=True (--overwrite)"
    assert fails(*arguments, "--out", out) == taken
    assert (out / "model.safetensors").read_bytes() == before
    run(*arguments, "--out", out, "--overwrite", "--quiet", "--seed", "5")
    assert (out / "model.safetensors").read_bytes() != before
    language = tmp_path / "language"
    run(
        "train",
        text,
        "--out",
        language,
        "--quiet",
        "--epochs",
        "1",
        "--batch-size",
        "2",
        "--sequence-length",
        "5",
        "--hidden-size",
        "4",
    )
    assert "holds a language model, not a fitted estimator: use headgate generate" in fails("predict", language)
    assert "is not empty and holds no fitted estimator" in fails(*arguments, "--out", language, "--overwrite")


def test_an_interrupt_before_training_writes_nothing(
    tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "_fit_samples", interrupt)
    out = tmp_path / "run"
    assert main(["fit", str(tables / "rides.csv"), "--target", "price", "--group", "ride", "--features", "speed",
                 "--out", str(out)]) == 130  # fmt: skip
    assert capsys.readouterr().err == "interrupted: nothing was written\n"
    assert not out.exists()


def test_without_scikit_learn_the_extra_is_named(tables: Path) -> None:
    code = (
        "import sys\nsys.modules['sklearn'] = None\nsys.modules['pandas'] = None\nfrom headgate.cli.main import main\n"
        f"sys.exit(main(['fit', {str(tables / 'rides.csv')!r}, '--target', 'price']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 2
    assert "pip install '.[estimators]'" in done.stderr
