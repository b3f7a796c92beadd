"""Tables on disk, CSV or Parquet, as sequences with targets, or as time series.

A table is read in one of three ways. With a group column, each group is a sequence: its rows are the steps, its columns
the features, and the target is one value a group. To be forecast, the target column is a time series (one for each
group). Otherwise each row is a sequence of numbers, its columns the steps.
"""

import errno
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from headgate.errors import InputError, nearest

TASKS = ("regression", "classification", "forecast")


@dataclass(frozen=True)
class Roles:
    """What the columns of a table are to a model; stored with it."""

    task: str
    target: str
    features: tuple[str, ...] = ()
    time: str | None = None
    group: str | None = None
    frequency: str | None = None  # of the steps of series: those that are not in the table are missing values

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, described: dict[str, Any]) -> "Roles":
        texts = [v for k, v in described.items() if k != "features" and v is not None] + list(described["features"])
        if described["task"] not in TASKS or not all(isinstance(text, str) for text in texts):
            raise ValueError("a task, and names of columns, are expected")
        return cls(**{**described, "features": tuple(described["features"])})


def read_table(path: str) -> pd.DataFrame:
    """Read a .csv (also .gz, .zip, ...; "-": from standard input) or .parquet file. InputError where that cannot be."""
    if path != "-" and not Path(path).is_file():
        raise InputError(f"there is no file {path}: give a .csv or .parquet file, or - for standard input")
    try:
        table = pd.read_parquet(path) if path.endswith(".parquet") else pd.read_csv(sys.stdin if path == "-" else path)
    except Exception as error:  # whatever pandas, Arrow and a dozen ways of compression raise for what is damaged
        if isinstance(error, ImportError) or (isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)):
            raise
        kind = "Parquet" if path.endswith(".parquet") else "CSV"
        raise InputError(f"{path} cannot be read as {kind}: {(str(error) or repr(error)).splitlines()[0]}") from None
    if table.empty:
        raise InputError(f"{path} has no rows: at least one is needed")
    return table


def assign_roles(
    table: pd.DataFrame,
    target: str,
    *,
    time: str | None,
    group: str | None,
    features: list[str] | None,
    forecast: bool,
    task: str,
    frequency: str | None,
) -> Roles:
    """Say what each column is for. Without ``features``: every other column; of a forecast none."""
    require(table, [c for c in (target, time, group, *(features or ())) if c is not None])
    given = [c for c in (target, time, group, *(features or ())) if c is not None]
    if twice := next((c for c in given if given.count(c) > 1), None):
        raise InputError(
            f"column {twice} was given two parts to play: the target, time, group and features must differ"
        )
    if forecast and time is None:
        raise InputError("a forecast needs the column that orders the steps: name it with --time")
    if task == "auto":
        number = pd.api.types.is_numeric_dtype(table[target]) and not pd.api.types.is_bool_dtype(table[target])
        task = "forecast" if forecast else "regression" if number else "classification"
    if features is None:
        features = [] if forecast else [str(c) for c in table.columns if c not in (target, time, group)]
    if not features and not forecast:
        raise InputError(f"there is no column beside {target} to predict it from: the table has {_few(table.columns)}")
    return Roles(task, target, tuple(features), time, group, frequency)


def require(table: pd.DataFrame, columns: list[str]) -> None:
    """InputError that names the first column that is not there."""
    for column in columns:
        if column not in table.columns:
            raise InputError(f"the table has no column {column}: {nearest(column, map(str, table.columns))}")


def samples(table: pd.DataFrame, roles: Roles) -> tuple[Any, np.ndarray | None, pd.DataFrame]:
    """X and y as the estimators take them, y None where there is no target column, and what names each sample: its
    group, or its row's number."""
    require(table, [c for c in (roles.time, roles.group, *roles.features) if c is not None])
    known = roles.target in table.columns
    for feature in roles.features:
        if not pd.api.types.is_numeric_dtype(table[feature]):
            raise InputError(
                f"column {feature} holds {_example(table[feature])}, no numbers: encode it, or choose others with "
                "--features"
            )
    if known and table[roles.target].isna().any():
        row = int(table[roles.target].isna().to_numpy().argmax())
        raise InputError(f"column {roles.target} has no value in row {row + 1}: leave such rows out")
    if roles.group is None:
        if roles.time is not None:
            table = table.sort_values(roles.time, kind="stable")
        X = table[list(roles.features)].to_numpy(np.float64)
        return X, table[roles.target].to_numpy() if known else None, pd.DataFrame({"row": np.arange(1, len(table) + 1)})
    X, y, names = [], [], []
    for name, rows in table.groupby(roles.group, sort=False):
        if roles.time is not None:
            rows = rows.sort_values(roles.time, kind="stable")
        X.append(rows[list(roles.features)].to_numpy(np.float64))
        names.append(name)
        if known:
            values = rows[roles.target].unique()
            if len(values) > 1:
                raise InputError(
                    f"column {roles.target} has several values in group {name!r} ({values[0]}, {values[1]}, ...): "
                    "one for each group is needed"
                )
            y.append(values[0])
    return X, np.array(y) if known else None, pd.DataFrame({roles.group: names})


def series(table: pd.DataFrame, roles: Roles) -> tuple[Any, pd.DataFrame | None]:
    """The target as series in the long form, and the features of the steps after it: rows at the end whose target is
    missing; None where the model has no features."""
    assert roles.time is not None
    require(table, [c for c in (roles.time, roles.target, roles.group, *roles.features) if c is not None])
    long = pd.DataFrame(
        {"unique_id": roles.target if roles.group is None else table[roles.group], "ds": _steps(table, roles)}
    )
    long["y"] = table[roles.target].to_numpy()
    for feature in roles.features:
        long[feature] = table[feature].to_numpy()
    if not pd.api.types.is_numeric_dtype(long["y"]):
        raise InputError(f"column {roles.target} holds {_example(long['y'])}, no numbers: name a column of numbers")
    if roles.frequency is not None:
        long = _regular(long, roles.frequency)
    if not roles.features:
        return long, None
    long = long.sort_values(["unique_id", "ds"], kind="stable")
    ended = long["y"].notna()[::-1].groupby(long["unique_id"]).cummax()[::-1]
    return long[ended], long[~ended].drop(columns="y")


def _steps(table: pd.DataFrame, roles: Roles) -> Any:
    column = table[roles.time]
    if pd.api.types.is_integer_dtype(column) or pd.api.types.is_datetime64_any_dtype(column):
        return column.to_numpy() if pd.api.types.is_integer_dtype(column) else column
    try:
        return pd.to_datetime(column, format="ISO8601")  # 1/2/2024 could be two days
    except (ValueError, TypeError):
        raise InputError(
            f"column {roles.time} must hold dates like 2024-01-31 (or 2024-01-31 13:30), or whole numbers, "
            f"got {column.iloc[0]!r}"
        ) from None


def _regular(long: pd.DataFrame, frequency: str) -> pd.DataFrame:
    parts = []
    for name, rows in long.groupby("unique_id", sort=False):
        if rows["ds"].duplicated().any():
            raise InputError(
                f"series {name!r} has {rows['ds'][rows['ds'].duplicated()].iloc[0]} twice: keep one row of each"
            )
        try:
            regular = rows.set_index("ds").sort_index().asfreq(frequency)
        except (ValueError, TypeError) as error:
            raise InputError(f"--frequency {frequency} cannot be: {error}") from None
        regular["unique_id"] = name
        parts.append(regular.reset_index())
    return pd.concat(parts, ignore_index=True)


def _example(column: pd.Series) -> str:
    """The first value that is no number."""
    present = column.dropna()
    strange = present[pd.to_numeric(present, errors="coerce").isna()]
    return repr(strange.iloc[0]) if len(strange) else f"values of the type {column.dtype}"


def _few(names: Any) -> str:
    names = list(map(str, names))
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
