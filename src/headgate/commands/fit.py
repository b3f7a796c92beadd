"""``headgate fit``: from a table to a run directory that holds a regressor, a classifier or a forecaster."""

import argparse
import dataclasses
import json
import shlex
import sys
import typing
from pathlib import Path
from typing import Any

from headgate.commands.invocation import command, default_directory
from headgate.errors import InputError
from headgate.estimator_parameters import ClassifierParameters, ForecastParameters
from headgate.files import format_json

if typing.TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from headgate.recipe import Recipe
    from headgate.table import Roles

NOT_FLAGS = ("warm_start", "verbose", "random_state", "horizon")  # these have their own


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", nargs="?", metavar="DATA", help="a .csv (or .csv.gz, ...) or .parquet file, or '-'")
    parser.add_argument("--target", metavar="COLUMN", help="what to predict: numbers, or classes")
    parser.add_argument("--time", metavar="COLUMN", help="what orders the rows: dates or whole numbers")
    parser.add_argument("--group", metavar="COLUMN", help="rows with the same value here are one sequence (or series)")
    parser.add_argument(
        "--features", nargs="+", metavar="COLUMN", help="predict from these (all others; a forecast: none)"
    )
    parser.add_argument("--horizon", type=int, help="forecast the target so many steps ahead")
    parser.add_argument("--frequency", metavar="FREQ", help="steps of the dates as pandas spells them: D, MS, h, ...; "
                        "those that are not in the table are missing values")  # fmt: skip
    parser.add_argument(
        "--task", choices=("auto", "regression", "classification"), default="auto",
        help="auto: regression where the target holds numbers (auto)",
    )  # fmt: skip
    parser.add_argument(
        "--test", type=float, default=0.2, metavar="SHARE",
        help="share of the samples that are not trained on, to say how good the model is; 0: none (0.2)",
    )  # fmt: skip
    parser.add_argument("--backtest", type=int, default=0, metavar="FOLDS", help="test a forecast in so many folds (0)")
    parser.add_argument("--recipe", metavar="NAME", help="run a recipe instead: 'headgate recipes'")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (0)")
    parser.add_argument("--out", metavar="DIR", help="the run directory (runs/NAME, numbered where that is taken)")
    parser.add_argument("--overwrite", action="store_true", help="replace the run in --out")
    parser.add_argument("--quiet", action="store_true", help="print errors only; the run directory has the rest")
    group = parser.add_argument_group("model settings")
    samples, forecasts = _flags(ClassifierParameters), _flags(ForecastParameters)
    for name in {**samples, **forecasts}:
        _add_setting(group, name, samples.get(name), forecasts.get(name))


def _flags(kind: type) -> dict[str, Any]:
    return {f.name: f for f in dataclasses.fields(kind) if f.name not in NOT_FLAGS}


def _add_setting(group: Any, name: str, of_samples: Any, of_forecasts: Any) -> None:
    """A flag for a parameter; absent unless given, so that its default stays in estimator_parameters.py."""
    f = of_samples or of_forecasts
    flag, text = "--" + name.replace("_", "-"), f.metadata["help"]
    default = "none" if f.default is None else f.default
    if of_samples and of_forecasts and of_samples.default != of_forecasts.default:
        default = f"{default}; of a forecast {of_forecasts.default}"
    elif not of_samples:
        text = f"of a forecast: {text}"
    absent: dict[str, Any] = {"default": argparse.SUPPRESS}
    if f.type is bool:
        group.add_argument(
            flag, action=argparse.BooleanOptionalAction, help=f"{text} ({'yes' if default else 'no'})", **absent
        )
    elif f.type is Any:
        several = "*" if name == "difference" else None
        group.add_argument(flag, type=_value, nargs=several, metavar="VALUE", help=f"{text} ({default})", **absent)
    else:
        choices = f.metadata["choices"] or None
        metavar = None if choices else f.type.__name__.upper()
        group.add_argument(flag, type=f.type, choices=choices, metavar=metavar, help=f"{text} ({default})", **absent)


def _value(text: str) -> int | float | str:
    """A number where it is one: "12" -> 12, "0.5" -> 0.5, "auto" -> "auto"."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def run(options: argparse.Namespace) -> int:
    """Fit what the flags ask for and say how good it is."""
    import torch  # noqa: F401 - first, so that where it is missing the message names it

    from headgate import recipe as recipes
    from headgate import saved, table

    say = (lambda text: None) if options.quiet else (lambda text: print(text, flush=True))
    if options.recipe:
        return _fit_noise(recipes.load(options.recipe), options, say)
    if not options.data or not options.target:
        raise InputError("give a table and the column to predict: headgate fit DATA --target COLUMN")
    forecast = options.horizon is not None
    given = _given(options, forecast)
    found = table.read_table(options.data)
    roles = table.assign_roles(
        found, options.target, time=options.time, group=options.group, features=options.features, forecast=forecast,
        task=options.task, frequency=options.frequency,
    )  # fmt: skip
    name = Path(options.data).name.split(".")[0] if options.data != "-" else "table"
    out = Path(options.out) if options.out else default_directory(name or "table")
    saved.check_place(out, overwrite=options.overwrite)
    try:
        (_fit_series if forecast else _fit_samples)(found, roles, given, out, options, say)
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        raise
    say(f"run    {out}")
    data = "" if forecast else " NEW.csv"
    say(f"predict:\n  {command()} predict {shlex.quote(str(out))}{data}")
    return 0


def _given(options: argparse.Namespace, forecast: bool) -> dict[str, Any]:
    """The parameters that were given as flags; InputError for those that this task does not have."""
    samples, forecasts = _flags(ClassifierParameters), _flags(ForecastParameters)
    given = {name: getattr(options, name) for name in {**samples, **forecasts} if hasattr(options, name)}
    known = forecasts if forecast else samples
    if other := next((name for name in given if name not in known), None):
        what = "does not go with a forecast" if forecast else "is of forecasts: give --horizon, or leave it away"
        raise InputError(f"--{other.replace('_', '-')} {what}")
    if "difference" in given:
        lags = given["difference"]
        given["difference"] = "auto" if lags == ["auto"] else tuple(lag for lag in lags if lag != "none")
    return {**given, "random_state": options.seed, "verbose": 0 if options.quiet else 1}


def _fit_samples(
    found: "pd.DataFrame", roles: "Roles", given: dict[str, Any], out: Path, options: argparse.Namespace, say: Any
) -> None:
    import numpy as np

    from headgate import table
    from headgate.estimators import GRUClassifier, GRURegressor

    X, y, _ = table.samples(found, roles)
    assert y is not None
    lengths = [len(x) for x in X]
    shape = f"{min(lengths)} to {max(lengths)}" if min(lengths) < max(lengths) else f"{max(lengths)}"
    features = len(roles.features) if roles.group else 1
    say(
        f"{options.data}: {len(y):,} sequences of {shape} steps, {features} feature{'s' * (features > 1)}; "
        f"{roles.task} of {roles.target}"
    )
    if roles.task == "regression":
        given.pop("class_weight", None)
    estimator: Any = (GRURegressor if roles.task == "regression" else GRUClassifier)(**given)
    training, test = _split(y, roles.task, options.test, options.seed)
    estimator.fit(_take(X, training), y[training])
    if len(test):
        score = estimator.score(_take(X, test), y[test])
        if roles.task == "regression":
            say(f"test   R2 {score:.3f} over {len(test)} sequences not trained on (their mean would have 0)")
        else:
            labels, counts = np.unique(y[training], return_counts=True)
            naive = float((y[test] == labels[counts.argmax()]).mean())
            say(f"test   accuracy {score:.3f} over {len(test)} sequences not trained on (always "
                f"{labels[counts.argmax()]}: {naive:.3f})")  # fmt: skip
    _write(estimator, out, roles, estimator.history_, options)
    say(f"curve  {out / 'curve.png'}")


def _fit_series(
    found: "pd.DataFrame", roles: "Roles", given: dict[str, Any], out: Path, options: argparse.Namespace, say: Any
) -> None:
    from headgate import table
    from headgate.forecaster import GRUForecaster

    long, _ = table.series(found, roles)
    forecaster = GRUForecaster(horizon=options.horizon, **given)
    if options.backtest:
        folds = forecaster.backtest(options.backtest, long)
        say(folds.to_string(index=False, float_format="%.3f"))
        mean = folds[["mase", "seasonal_naive", "coverage"]].mean()
        say(
            f"backtest: mean absolute scaled error {mean['mase']:.3f}, seasonal naive {mean['seasonal_naive']:.3f}; "
            f"80% intervals held {mean['coverage']:.0%}"
        )
    forecaster.fit(long)
    _write(forecaster, out, roles, forecaster.regressor_.history_, options)
    if not roles.features:
        forecaster.plot(path=out / "forecast.png")
        say(f"chart  {out / 'forecast.png'}")


def _write(
    estimator: Any, out: Path, roles: "Roles", history: list[dict[str, float]], options: argparse.Namespace
) -> None:
    from headgate import saved
    from headgate.curve import draw_losses

    saved.write(
        out, type(estimator).__name__, estimator.get_params(), *estimator.describe(), overwrite=options.overwrite,
        more={
            "data.json": format_json(roles.to_json(), indent=1),
            "log.jsonl": "".join(json.dumps(entry) + "\n" for entry in history).encode(),
        },
    )  # fmt: skip
    draw_losses(history, out / "curve.png")


def _split(y: "np.ndarray", task: str, share: float, seed: int) -> "tuple[np.ndarray, np.ndarray]":
    """Indices to train on and to test with; where it can be, of every class in both."""
    import numpy as np
    from sklearn.model_selection import train_test_split

    if not 0 <= share < 1:
        raise InputError(f"--test must be at least 0 and below 1, got {share}")
    n, held_out = len(y), round(share * len(y))
    if not held_out:
        return np.arange(n), np.arange(0)
    if n - held_out < 1:
        raise InputError(f"--test {share} leaves nothing of {n} samples to train on: give a smaller share")
    classes = None
    if task == "classification":
        labels, counts = np.unique(y, return_counts=True)
        if counts.min() > 1 and len(labels) <= min(held_out, n - held_out):
            classes = y
    split = train_test_split(np.arange(n), test_size=held_out, random_state=seed, stratify=classes)
    return split[0], split[1]


def _take(X: Any, indices: "np.ndarray") -> Any:
    return [X[i] for i in indices] if isinstance(X, list) else X[indices]


def _fit_noise(recipe: "Recipe", options: argparse.Namespace, say: Any) -> int:
    from headgate.noise import fit_noise

    if recipe.noise is None:
        raise InputError(f"recipe {recipe.name} trains a language model: {command()} train --recipe {recipe.name}")
    losses = fit_noise(recipe.noise, seed=options.seed, say=say)
    later = losses[len(losses) // 2 :]
    say(f"mean loss of the last {len(later)} epochs: {sum(later) / len(later):.3f}")
    say(
        "Every target is drawn anew, whatever the inputs are: nothing predicts it better than its mean, 0, and so the "
        "expected loss of a model cannot fall below the variance of the noise, 1."
    )
    return 0
