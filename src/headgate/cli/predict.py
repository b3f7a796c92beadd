"""``headgate predict``: predict from a table with a fitted regressor, classifier or forecaster."""

import argparse
import io
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headgate.console import is_closed, tell
from headgate.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from headgate.sequences.table import Roles


MOST_STEPS = 100_000  # of a forecast


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="RUN", help="a run directory that fit made")
    parser.add_argument(
        "data",
        nargs="?",
        metavar="DATA",
        help="a table as for fit; a forecaster continues its series (those it was fitted with)",
    )
    parser.add_argument(
        "--horizon",
        type=int,
        metavar="N",
        help="forecast N steps (one per row at the end without a target, or --horizon of fit)",
    )
    parser.add_argument("--coverage", type=float, metavar="X", help="coverage of a forecast's interval; 0: none (0.8)")
    parser.add_argument(
        "--probabilities", action="store_true", help="for a classifier: add the probability of each class"
    )
    parser.add_argument("-o", "--out", metavar="FILE", help="write a .csv or .parquet file (CSV on standard output)")


def run(options: argparse.Namespace) -> int:
    """Predict, and print the answer or write it to a file."""
    import torch  # noqa: F401 - first, so that the message names torch if it is missing

    _check_output(options)
    path = Path(options.path)
    kind, estimator, roles = _load(path)
    forecast = kind == "GRUForecaster"
    if not forecast and (flag := next((f for f in ("horizon", "coverage") if getattr(options, f) is not None), None)):
        raise InputError(f"--{flag} is for forecasts, but {path} holds a {kind}: omit it")
    if forecast and options.probabilities:
        raise InputError(f"--probabilities is for classes, but {path} holds a {kind}: omit it")
    answer = (_forecast if forecast else _answer)(estimator, roles, options)
    _write(answer, options.out)
    return 0


def _check_output(options: argparse.Namespace) -> None:
    """Raise InputError if the answer could not be written."""
    if options.out is None:
        if is_closed(sys.stdout):
            raise InputError("standard output is closed: name a file with --out")
        return
    if not options.out.endswith((".csv", ".parquet")):
        raise InputError(f"--out must be a .csv or .parquet file, got {options.out}")
    folder = Path(options.out).parent
    if not folder.is_dir():
        raise InputError(f"there is no directory {folder} for --out {options.out}: create it, or name another file")
    if Path(options.out).is_dir():
        raise InputError(f"--out {options.out} is a directory: name a file in it")


def _load(path: Path) -> "tuple[str, Any, Roles]":
    """Load the estimator of a run directory; return its kind, itself and its roles, all from the same save."""
    import headgate
    from headgate.runs import estimator_directory
    from headgate.sequences import table
    from headgate.storage import files

    while True:
        kind = files.estimator_in(path)
        if kind not in ("GRURegressor", "GRUClassifier", "GRUForecaster"):
            estimator_directory.read(path, "GRURegressor")  # raises InputError that says what is wrong
            raise InputError(f"{path} holds a {kind}, which headgate predict does not know: fit again")
        before = (path / "config.json").read_bytes()
        described = estimator_directory.companion(path, "data.json")
        estimator = getattr(headgate, kind).load(path)
        if (path / "config.json").read_bytes() == before:
            break
    if described is None:
        raise InputError(f"{path} was saved from Python (there is no data.json): load it there with {kind}.load")
    file, remedy = path / "data.json", "restore it, or fit again"
    return kind, estimator, files.parse_json(described, file, table.Roles.from_json, remedy=remedy)


def _write(answer: "pd.DataFrame", out: str | None) -> None:
    """Write a table to standard output, or atomically to a file."""
    from headgate.storage import files

    if out is None:
        sys.stdout.write(answer.to_csv(index=False, lineterminator="\n"))
        sys.stdout.flush()
        return
    if out.endswith(".csv"):
        files.write_whole(Path(out), answer.to_csv(index=False).encode("utf-8", "backslashreplace"))
        return
    content = io.BytesIO()
    answer.to_parquet(content, index=False)
    files.write_whole(Path(out), content.getvalue())


def _answer(estimator: Any, roles: "Roles", options: argparse.Namespace) -> "pd.DataFrame":
    """Return one row per sample: its name, the prediction, probabilities."""
    import numpy as np
    import pandas as pd

    from headgate.sequences import table, table_file

    if options.data is None:
        raise InputError(f"give a table to predict {roles.target} from: headgate predict RUN DATA")
    if options.probabilities and roles.task != "classification":
        raise InputError(f"--probabilities is for classes, but {roles.target} is a number: omit it")
    X, y, names = table.samples(table_file.read_table(options.data, say=tell), roles)
    predictions = estimator.predict(X)
    columns = {name if name != roles.target else f"{name} number": names[name] for name in names}
    answer = pd.DataFrame({**columns, roles.target: predictions})
    if options.probabilities:
        for label, column in zip(estimator.classes_, estimator.predict_proba(X).T, strict=True):
            answer[f"probability of {label}"] = column
    known = np.zeros(len(predictions), bool) if y is None else ~pd.isna(y)
    if y is not None and known.any():
        if roles.task == "classification":
            pairs = zip(y[known].tolist(), predictions[known].tolist(), strict=True)
            right = [a == b or str(a) == str(b) for a, b in pairs]
            tell(f"accuracy {np.mean(right):.3f} over {len(right)} sequences")
        elif known.sum() > 1:
            from sklearn.metrics import r2_score

            tell(f"R2 {r2_score(y[known].astype(float), predictions[known]):.3f} over {known.sum()} sequences")
    return answer


def _forecast(forecaster: Any, roles: "Roles", options: argparse.Namespace) -> "pd.DataFrame":
    """Return one row per future step: its date, the series if there are several, the forecast and its interval."""
    import pandas as pd

    from headgate.sequences import table, table_file

    history, future = None, None
    if options.horizon is not None and not 1 <= options.horizon <= MOST_STEPS:
        raise InputError(f"--horizon must be at least 1 and at most {MOST_STEPS}, got {options.horizon}")
    horizon = options.horizon
    if options.data is not None:
        history, future = table.series(table_file.read_table(options.data, say=tell), roles)
        asked = 0 if future is None or future.empty else int(future["unique_id"].value_counts().max())
        if horizon is None and asked:
            horizon = min(asked, forecaster.horizon)
            if horizon < asked:
                tell(
                    f"{horizon} of the {asked} rows without {roles.target} are forecast, the horizon of fit: "
                    f"use --horizon {asked} --coverage 0 for all"
                )
    elif roles.features:
        raise InputError(
            f"the forecast needs {', '.join(roles.features)} of the future steps: give a table whose last rows have "
            f"these and no {roles.target}"
        )
    if not roles.features:
        future = None
    coverage = 0.8 if options.coverage is None else options.coverage
    intervals = getattr(forecaster, "has_intervals_", bool(forecaster.calibration))
    if coverage and not intervals:
        warnings.warn(
            "there are no intervals, because none were calibrated: fit a longer series, or forecast without them with "
            "--coverage 0",
            stacklevel=2,
        )
    try:
        if coverage and intervals:
            answer = forecaster.predict_interval(horizon, future, y=history, coverage=coverage)
        else:
            answer = forecaster.predict(horizon, future, y=history).rename(columns={"y": "forecast"})
    except (pd.errors.OutOfBoundsDatetime, OverflowError) as error:
        raise InputError(
            f"--horizon {horizon} goes beyond the dates that pandas supports ({error}): give a smaller one"
        ) from None
    names = {"unique_id": roles.group, "ds": roles.time}
    if roles.group is None:
        answer = answer.drop(columns="unique_id")
    taken = [name for name in ("lower", "forecast", "upper") if name in (roles.group, roles.time)]
    answer = answer.rename(columns={name: f"{name} of {roles.target}" for name in taken})
    frame: pd.DataFrame = answer.rename(columns={old: new for old, new in names.items() if new is not None})
    return frame
