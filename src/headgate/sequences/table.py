"""Tables as sequences with targets, or as time series.

A table is read in one of three ways. With a group column, each group is a sequence: its rows are the steps, its columns
the features, and the target is one value per group. For a forecast, the target column is a time series (one for each
group). Otherwise each row is a sequence of numbers: its columns are the steps.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from headgate.errors import InputError, suggest
from headgate.sequences.dates import read_steps
from headgate.sequences.table_file import Say, place

TASKS = ("regression", "classification", "forecast")


@dataclass(frozen=True)
class Roles:
    """The roles of a table's columns in a model; stored with it."""

    task: str
    target: str
    features: tuple[str, ...] = ()
    time: str | None = None
    group: str | None = None
    frequency: str | None = None  # of the steps of series; steps that are not in the table are missing values
    dates: str | None = None  # the form in which the time column was read

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, described: dict[str, Any]) -> "Roles":
        texts = [v for k, v in described.items() if k != "features" and v is not None] + list(described["features"])
        if described["task"] not in TASKS or not all(isinstance(text, str) for text in texts):
            raise ValueError("expected a task and names of columns")
        names = {k: described[k].strip() for k in ("target", "time", "group") if described.get(k) is not None}
        return cls(**{**described, **names, "features": tuple(name.strip() for name in described["features"])})


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
    say: Say = lambda text: None,
) -> Roles:
    """Assign a role to each column. Raises InputError if the roles are inconsistent.

    Without ``features``, these are all other columns that have a name, or for a forecast none. If no ``time`` is given,
    a forecast takes the date index of a Parquet file. ``say`` is called with the format in which dates were read.
    """
    target, time, group = (None if c is None else c.strip() for c in (target, time, group))  # type: ignore[assignment]
    features = None if features is None else [c.strip() for c in features]
    if forecast and time is None:
        time = next((c for c in table.attrs.get("dates", ()) if c not in (target, group)), None)
    used = [c for c in (target, time, group, *(features or ())) if c is not None]
    require(table, used)
    if twice := next((c for c in used if used.count(c) > 1), None):
        raise InputError(
            f"column {twice} is used twice: --target, --time, --group and --features must name different columns"
        )
    if forecast and time is None:
        raise InputError("a forecast needs the column that orders the steps: name it with --time")
    if forecast and task != "auto":
        raise InputError(f"--task {task} does not go with a forecast: omit --task or --horizon")
    if not forecast and frequency is not None:
        raise InputError("--frequency is only for forecasts: give --horizon, or omit --frequency")
    if not forecast and time is not None and group is None:
        raise InputError(
            "--time does nothing here, because each row is a sequence of its own: name the column that groups rows "
            "into sequences with --group, or give --horizon to forecast"
        )
    kind = _kind(table, target)
    if kind == "dates":
        raise InputError(f"column {target} holds dates, not numbers or classes: name another --target")
    if task == "auto":
        task = "forecast" if forecast else "regression" if kind == "numbers" else "classification"
    if task != "classification" and kind == "text":
        raise _no_number(table[target])
    if features is None:
        features = [] if forecast else _other_columns(table, (target, time, group), say)
    if not features and not forecast:
        raise InputError(
            f"there is no column other than {target} to predict it from: the table has {_few(table.columns)}"
        )
    dates = None
    if time is not None:
        dates = read_steps(table[time], None)[1] if forecast else _order(table, time, None)[1]
        if dates is not None and not dates.startswith(("dates", "whole numbers")):
            say(f"column {time}: dates read as {dates}")
    if frequency is not None:
        _offset(frequency)
    return Roles(task, target, tuple(features), time, group, frequency, dates)


def _other_columns(table: pd.DataFrame, used: tuple[str | None, ...], say: Say) -> list[str]:
    left_out = [*table.attrs.get("unnamed", ()), *table.attrs.get("index", ())]
    if unnamed := [c for c in table.attrs.get("unnamed", ()) if c not in used]:
        say(f"the column without a name is left out: --features {unnamed[0]!r} would include it")
    return [str(c) for c in table.columns if c not in (*used, *left_out)]


def require(table: pd.DataFrame, columns: list[str]) -> None:
    """Raise InputError, which names the first missing column, unless the table has all columns."""
    for column in columns:
        if column not in table.columns:
            raise InputError(f"the table has no column {column}: {suggest(column, map(str, table.columns))}")


def answered(table: pd.DataFrame, roles: Roles) -> tuple[pd.DataFrame, int]:
    """Return the rows of the samples that have a target, and the number of samples that have none."""
    require(table, [c for c in (roles.target, roles.group) if c is not None])
    values = table[roles.target]
    missing = values.isna()
    if not missing.any():
        return table, 0
    if roles.group is not None:
        _check_groups(table, roles.group)
        names = table[roles.group]
        values = values.where(~missing, values.groupby(names, sort=False).transform("first"))
        left_out = int(names.nunique() - names[values.notna()].nunique())
    else:
        left_out = int(missing.sum())
    known = values.notna()
    if not known.any():
        raise InputError(f"column {roles.target} has no values: give some to learn from")
    values = values[known]
    if roles.task == "classification":
        values = values.infer_objects()
        if pd.api.types.is_float_dtype(values) and (values % 1 == 0).all():
            values = values.astype(np.int64)  # classes 0 and 1 are 0.0 and 1.0 in a column with an empty cell
    return table[known].assign(**{roles.target: values}), left_out


def samples(table: pd.DataFrame, roles: Roles) -> tuple[Any, np.ndarray | None, pd.DataFrame]:
    """Return X and y for the estimators, and a table that names each sample by its group or row number.

    y is None if there is no target column; it has NaN or None for samples without a target.
    """
    require(table, [c for c in (roles.group and roles.time, roles.group, *roles.features) if c is not None])
    known = roles.target in table.columns
    numbers = np.stack([_floats(table[c]) for c in roles.features], 1)
    if known and roles.task == "regression":
        if _kind(table, roles.target) not in ("numbers", "truth") and table[roles.target].notna().any():
            raise _no_number(table[roles.target])
        _floats(table[roles.target], missing=True)
    if roles.group is None:
        y = table[roles.target].to_numpy() if known else None
        return numbers, y, pd.DataFrame({"row": np.arange(1, len(table) + 1)})
    _check_groups(table, roles.group)
    order = np.arange(len(table))
    if roles.time is not None:
        order = np.argsort(_order(table, roles.time, roles.dates)[0], kind="stable")
    codes, names = pd.factorize(table[roles.group])  # in the order of the table
    by_group = order[np.argsort(codes[order], kind="stable")]
    parts = np.split(by_group, np.cumsum(np.bincount(codes))[:-1])
    X = [numbers[part] for part in parts]
    y = _one_each(table, roles, parts, names) if known else None
    return X, y, pd.DataFrame({roles.group: names})


def _one_each(table: pd.DataFrame, roles: Roles, parts: list[np.ndarray], names: Any) -> np.ndarray:
    """Return the target of each group. Raises InputError if a group has several."""
    column, y = table[roles.target], []
    for name, part in zip(names, parts, strict=True):
        values = column.iloc[np.sort(part)].dropna()
        if values.nunique() > 1:
            other = int((values != values.iloc[0]).to_numpy().argmax())
            raise InputError(
                f"column {roles.target} has several values in group {name!r} ({values.iloc[0]} in {place(values, 0)}, "
                f"{values.iloc[other]} in {place(values, other)}): one for each group is needed"
            )
        y.append(values.iloc[0] if len(values) else None)
    if None not in y:
        return np.array(y)
    numbers = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    return np.array(y, dtype=np.float64 if numbers else object)


def series(table: pd.DataFrame, roles: Roles) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Return the target as series in the long form, and the rows at their ends whose target is missing.

    Instead of the latter, None if there are none and the model has no features.
    """
    assert roles.time is not None
    require(table, [c for c in (roles.time, roles.target, roles.group, *roles.features) if c is not None])
    if roles.group is not None:
        _check_groups(table, roles.group)
    names = roles.target if roles.group is None else table[roles.group].array
    steps = read_steps(table[roles.time], roles.dates)[0]
    long = pd.DataFrame({"unique_id": names, "ds": steps}, index=table.index)
    if _kind(table, roles.target) not in ("numbers", "truth") and table[roles.target].notna().any():
        raise _no_number(table[roles.target])
    long["y"] = _floats(table[roles.target], missing=True)
    for feature in roles.features:
        called = f"{feature} (feature)" if feature in ("unique_id", "ds", "y") else feature
        long[called] = _floats(table[feature], missing=True)
    _check_once(long, roles)
    if roles.frequency is not None:
        long = _regular(long, roles.frequency)
    if empty := next((name for name, y in long.groupby("unique_id", sort=False)["y"] if y.isna().all()), None):
        where = "" if roles.group is None else f" in series {empty!r}"
        raise InputError(f"column {roles.target} has no value{where}: give some to continue from, or remove the series")
    ordered = long.sort_values(["unique_id", "ds"], kind="stable")
    ended = ordered["y"].notna()[::-1].groupby(ordered["unique_id"]).cummax()[::-1]
    if ended.all() and not roles.features:
        return long, None
    return ordered[ended], ordered[~ended].drop(columns="y")


def _order(table: pd.DataFrame, time: str, form: str | None) -> tuple[Any, str | None]:
    """Return values that order the rows of a group, and the form of its dates, if any. Times of day sort as text."""
    column = table[time]
    if column.notna().all() and pd.api.types.is_numeric_dtype(column):
        return column.to_numpy(), None
    if column.notna().all() and pd.api.types.is_timedelta64_dtype(column):
        return column.to_numpy(), None
    if column.map(lambda value: isinstance(value, str)).all() and column.str.fullmatch(r"\d\d:\d\d(:\d\d)?").all():
        return column.to_numpy(), None
    return read_steps(column, form)


def _check_groups(table: pd.DataFrame, group: str) -> None:
    """Raise InputError unless each row has a group that is a number, a text or a date."""
    column = table[group]
    if column.isna().any():
        at = int(column.isna().to_numpy().argmax())
        raise InputError(
            f"column {group} has no value in {place(column, at)} ({column.isna().sum()} in all), but each row must "
            "belong to a group: fill it in, or remove such rows"
        )
    _kind(table, group)


def _check_once(long: pd.DataFrame, roles: Roles) -> None:
    """Raise InputError if a series has a step twice."""
    again = long.duplicated(["unique_id", "ds"]).to_numpy()
    if not again.any():
        return
    second = int(again.argmax())
    name, step = long["unique_id"].iloc[second], long["ds"].iloc[second]
    first = int(((long["unique_id"] == name) & (long["ds"] == step)).to_numpy().argmax())
    hint = "" if roles.group is not None else ", or name the column that tells series apart with --group"
    raise InputError(
        f"series {name!r} has {step} twice, in {place(long, first)} and {place(long, second)}: keep one row of each"
        + hint
    )


def _offset(frequency: str) -> Any:
    try:
        offset = pd.tseries.frequencies.to_offset(frequency)
    except (ValueError, TypeError) as error:
        raise InputError(f"--frequency {frequency} is invalid: {str(error).splitlines()[0]}") from None
    if offset is None or offset.n < 1:
        raise InputError(f"--frequency {frequency} is invalid: steps must go forward, as with D, MS or 15min")
    return offset


def _regular(long: pd.DataFrame, frequency: str) -> pd.DataFrame:
    offset, parts = _offset(frequency), []
    for name, rows in long.groupby("unique_id", sort=False):
        dated = rows.set_index("ds").sort_index()
        if not isinstance(dated.index, pd.DatetimeIndex | pd.PeriodIndex):
            raise InputError(f"--frequency {frequency} needs dates, but the steps are numbers: omit --frequency")
        try:
            steps = (dated.index[-1] - dated.index[0]) / pd.Timedelta(offset)
        except (ValueError, TypeError):  # months have no length
            steps = 0
        if steps > 10_000_000:
            raise InputError(f"--frequency {frequency} makes {steps:.0e} steps of series {name!r}: give a longer one")
        try:
            regular = dated.asfreq(frequency)
        except (ValueError, TypeError) as error:
            raise InputError(f"--frequency {frequency} is invalid: {str(error).splitlines()[0]}") from None
        if len(lost := dated.index.difference(regular.index)):
            raise InputError(
                f"--frequency {frequency} has no step at {lost[0]} of series {name!r}, and {len(lost)} rows would be "
                "lost: give the frequency of the dates, or omit --frequency"
            )
        regular["unique_id"] = name
        parts.append(regular.reset_index())
    return pd.concat(parts, ignore_index=True)


def _kind(table: pd.DataFrame, name: str) -> str:
    """Return what a column holds: "numbers", "truth" values, "dates" or "text". Raises InputError for anything else."""
    column = table[name]
    if pd.api.types.is_bool_dtype(column):
        return "truth"
    if pd.api.types.is_numeric_dtype(column):
        return "numbers"
    if pd.api.types.is_datetime64_any_dtype(column) or isinstance(column.dtype, pd.PeriodDtype):
        return "dates"
    present = column.dropna()
    kinds = {type(value) for value in present}
    if any(hasattr(kind, "year") for kind in kinds):
        return "dates"
    if strange := next((kind for kind in kinds if not issubclass(kind, str | bool | np.bool_ | int | float)), None):
        at = next(i for i, value in enumerate(present) if type(value) is strange)
        called = {"ndarray": "lists", "list": "lists", "dict": "structs", "bytes": "bytes"}.get(strange.__name__)
        raise InputError(
            f"column {name} holds {called or strange.__name__} ({place(present, at)}): give a column of numbers or text"
        )
    return "text"


def _floats(column: pd.Series, *, missing: bool = False) -> np.ndarray:
    """Return a column of numbers as floats (n,).

    Raises InputError, with the row, for other values, infinity and, unless ``missing``, missing values.
    """
    if column.isna().all():
        values = np.full(len(column), np.nan)
    elif pd.api.types.is_numeric_dtype(column):
        values = column.to_numpy(np.float64, na_value=np.nan)
    else:
        raise _no_number(column)
    wrong = np.isinf(values) if missing else ~np.isfinite(values)
    if wrong.any():
        at = int(wrong.argmax())
        problem = (
            "no value"
            if np.isnan(values[at])
            else f"{'-' if values[at] < 0 else ''}infinity (or a number beyond 1e308)"
        )
        raise InputError(
            f"column {column.name} has {problem} in {place(column, at)} ({wrong.sum()} in all): fill in numbers, or "
            "leave such rows out"
        )
    return values


def _no_number(column: pd.Series) -> InputError:
    """Return the error for a column that is not numeric, which names its first such value and the row."""
    strange = column.notna() & pd.to_numeric(column.astype(object), errors="coerce").isna()
    if not strange.any():
        kind = "dates" if pd.api.types.is_datetime64_any_dtype(column) else f"values of the type {column.dtype}"
        return InputError(f"column {column.name} holds {kind}, not numbers: choose other columns with --features")
    at = int(strange.to_numpy().argmax())
    text = repr(column.iloc[at])
    text = text if len(text) < 50 else text[:45] + "..."
    return InputError(
        f"column {column.name} holds {text} in {place(column, at)}, which is not a number: write numbers (classes "
        "as columns of 0 and 1), or choose other columns"
    )


def _few(names: Any) -> str:
    names = list(map(str, names))
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
