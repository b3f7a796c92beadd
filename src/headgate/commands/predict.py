"""``headgate predict``: what a fitted regressor, classifier or forecaster says to a table."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headgate.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from headgate.table import Roles


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="RUN", help="a run directory that fit made")
    parser.add_argument(
        "data", nargs="?", metavar="DATA",
        help="a table as for fit; a forecaster goes on from the end of its series there (of those it was fitted with)",
    )  # fmt: skip
    parser.add_argument("--horizon", type=int, help="forecast so many steps (as many as fit was told)")
    parser.add_argument("--coverage", type=float, default=0.8, help="of a forecast's interval; 0: none (0.8)")
    parser.add_argument("--probabilities", action="store_true", help="of a classifier: also that of each class")
    parser.add_argument("--out", metavar="FILE", help="write .csv or .parquet (CSV on standard output)")


def run(options: argparse.Namespace) -> int:
    """Predict, and print or write a table."""
    import torch  # noqa: F401 - first, so that where it is missing the message names it

    import headgate
    from headgate import files, saved, table

    path = Path(options.path)
    kind = files.estimator_in(path)
    estimator: Any = None
    if kind in ("GRURegressor", "GRUClassifier", "GRUForecaster"):
        estimator = getattr(headgate, kind).load(path)
    else:
        saved.read(path, "GRURegressor")  # says what is wrong
    try:
        roles = table.Roles.from_json(json.loads((path / "data.json").read_bytes()))
    except FileNotFoundError:
        raise InputError(f"{path} was saved from Python (there is no data.json): load it there, {kind}.load") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}/data.json is damaged ({error!r}): restore it, or fit again") from None
    if options.out and not options.out.endswith((".csv", ".parquet")):
        raise InputError(f"--out must be a .csv or .parquet file, got {options.out}")
    answer = (_forecast if kind == "GRUForecaster" else _answer)(estimator, roles, options)
    if options.out is None:
        answer.to_csv(sys.stdout, index=False)
    elif options.out.endswith(".parquet"):
        answer.to_parquet(options.out, index=False)
    else:
        answer.to_csv(options.out, index=False)
    return 0


def _answer(estimator: Any, roles: "Roles", options: argparse.Namespace) -> "pd.DataFrame":
    """A row for each sample: its name, the prediction, probabilities."""
    from headgate import table

    if options.data is None:
        raise InputError(f"give a table to predict {roles.target} from: headgate predict RUN DATA")
    X, y, answer = table.samples(table.read_table(options.data), roles)
    answer[roles.target] = estimator.predict(X)
    if options.probabilities:
        if roles.task != "classification":
            raise InputError(f"--probabilities are of classes, and {roles.target} is a number: leave the flag away")
        for label, column in zip(estimator.classes_, estimator.predict_proba(X).T, strict=True):
            answer[f"probability of {label}"] = column
    if y is not None:
        name = "R2" if roles.task == "regression" else "accuracy"
        print(f"{name} {estimator.score(X, y):.3f} over {len(y)} sequences", file=sys.stderr)
    return answer


def _forecast(forecaster: Any, roles: "Roles", options: argparse.Namespace) -> "pd.DataFrame":
    """A row for each step to come: its date, the series where there are several, the forecast and its interval."""
    from headgate import table

    history, future = None, None
    if options.data is not None:
        history, future = table.series(table.read_table(options.data), roles)
    elif roles.features:
        raise InputError(
            f"the forecast needs {', '.join(roles.features)} of the steps to come: give a table whose last rows have "
            f"these and no {roles.target}"
        )
    if options.coverage and forecaster.calibration:
        answer = forecaster.predict_interval(options.horizon, future, y=history, coverage=options.coverage)
    else:
        answer = forecaster.predict(options.horizon, future, y=history).rename(columns={"y": "forecast"})
    names = {"unique_id": roles.group, "ds": roles.time}
    if roles.group is None:
        answer = answer.drop(columns="unique_id")
    frame: pd.DataFrame = answer.rename(columns={old: new for old, new in names.items() if new is not None})
    return frame
