"""Time series from NumPy, pandas or the long form as arrays, and forecasts in the same form.

Letters: N steps of a series, h steps of a forecast, F features of each step.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from headgate.errors import InputError

LONG = ("unique_id", "ds", "y")  # the columns of the long form; any others are features
FILLS = ("linear", "forward")
SEASONS = {
    "h": 24,
    "D": 7,
    "B": 5,
    "W": 52,
    "M": 12,
    "BM": 12,
    "Q": 4,
    "BQ": 4,
}  # steps in the season of each frequency


@dataclass(frozen=True)
class Series:
    """One series with its gaps filled."""

    name: Hashable
    values: np.ndarray  # (N,), float64
    features: np.ndarray  # (N, F)
    index: pd.Index  # of the steps, (N,)
    observed: np.ndarray | None = None  # (N,), False for values that were filled in; None: all were observed
    fill: str | float | None = None  # how gaps were filled, as for Panel.read

    def __len__(self) -> int:
        return len(self.values)

    @property
    def called(self) -> str:
        """The name of the series in error messages."""
        return "y" if self.name is None else f"series {self.name!r}"

    def until(self, end: int) -> "Series":
        """Return the first ``end`` steps (counted from the end if negative), with gaps filled from these alone."""
        cut = Series(self.name, self.values[:end], self.features[:end], self.index[:end])
        if self.observed is None or self.observed[:end].all():
            return cut
        return _filled(replace(cut, values=self.seen[:end]), self.fill)

    @property
    def seen(self) -> np.ndarray:
        """The observed values, with NaN in place of the others, (N,)."""
        return self.values if self.observed is None else np.where(self.observed, self.values, np.nan)

    def future(self, h: int) -> pd.Index:
        """Return the index of the h steps after the end of the series."""
        index = self.index
        if isinstance(index, pd.DatetimeIndex):
            if (steps := frequency(index)) is None:
                raise InputError(
                    f"{self.called} has too few dates to tell their frequency ({len(index)}): set it with y.asfreq(...)"
                )
            return pd.date_range(index[-1], periods=h + 1, freq=steps, name=index.name)[1:]
        if isinstance(index, pd.PeriodIndex):
            return pd.period_range(index[-1], periods=h + 1, name=index.name)[1:]
        step = index[1] - index[0] if len(index) > 1 else 1
        return pd.RangeIndex(index[-1] + step, index[-1] + step * (h + 1), step, name=index.name)


@dataclass(frozen=True)
class Panel:
    """One or more series and the form in which they were given.

    ``form``: "array", "arrays" (the columns of one, or a list), "series", "frame" or "long".
    """

    form: str
    series: tuple[Series, ...]
    columns: pd.Index | None = None  # of the form "frame"
    feature_names: tuple[str, ...] | None = None  # None if features have no names

    @classmethod
    def read(cls, y: Any, X: Any = None, *, fill: str | float | None = None, gaps: bool = False) -> "Panel":
        """Read one series or many.

        y     (N,) one series, as an array, list or pandas Series; (N, k) k series, as an array or DataFrame; a list of
              arrays of any lengths; or the long form, a DataFrame with the columns unique_id, ds, y
        X     features of each step, (N, F) or (N,), the same for all series; in the long form, further columns of y
        fill  None: missing values are an error; "linear" or "forward": fill them from their neighbours, and drop the
              steps before a series' first value; a number: the value to fill in
        gaps  keep missing values as NaN, although ``fill`` allows them

        Raises InputError for other shapes, missing values without ``fill``, infinities, and an index that is not sorted
        and regular.
        """
        plain = fill.item() if isinstance(fill, np.generic) else fill  # type: ignore[redundant-expr]
        number = isinstance(plain, int | float) and not isinstance(plain, bool) and abs(plain) <= 1e308
        if not (fill is None or number or (isinstance(fill, str) and fill in FILLS)):
            raise InputError(f'fill must be None, "linear", "forward" or a number, got {fill!r}')
        form, parts, columns = _forms(y)
        if form == "long" and X is not None:
            raise InputError("X is for arrays and wide frames: in the long form, give features as further columns of y")
        series = []
        for name, values, index, features in parts:
            where = "y" if name is None or form == "series" else f"series {name!r}"
            if features is None:
                features = _features(X, len(values))
            if isinstance(X, pd.DataFrame | pd.Series) and form in ("series", "frame") and not X.index.equals(index):
                raise InputError("X must have the index of y: X.reindex(y.index) aligns its rows")
            one = _checked(Series(name, values, features, index), where)
            missing = np.isnan(values)
            if missing.all() or (missing.any() and fill is None):
                hint = "give at least one" if missing.all() else 'fill="linear" or "forward" (--fill) fills them in'
                raise InputError(
                    f"{where} has NaN at {index[missing.argmax()]} ({missing.sum()} missing in all): {hint}"
                )
            series.append(one if gaps or not missing.any() else _filled(one, fill))
        series = _with_frequency(series)
        table, known = (y, LONG) if form == "long" else (X, ())
        names = tuple(c for c in table.columns if c not in known) if isinstance(table, pd.DataFrame) else None
        return cls(form, tuple(series), columns, names)

    def until(self, end: int) -> "Panel":
        return replace(self, series=tuple(s.until(end) for s in self.series))

    def ahead(self, X: Any, h: int) -> list[np.ndarray]:
        """Return the features of the next h steps for each series, (h, F) each.

        X is (h, F), the same for all series, or in the long form a DataFrame with unique_id, ds and the features.
        """
        F = self.series[0].features.shape[1]
        if X is None:
            if F:
                raise InputError(f"X must have the {F} features of the {h} steps to come, but there is no X: give one")
            return [np.empty((h, 0))] * len(self.series)
        if self.feature_names is not None and isinstance(X, pd.DataFrame):
            keys = list(LONG[:2]) if self.form == "long" else []
            if absent := [c for c in (*keys, *self.feature_names) if c not in X.columns]:
                raise InputError(
                    f"X must have the columns {', '.join(map(str, [*keys, *self.feature_names]))}: "
                    f"{absent[0]} is missing"
                )
            if self.form == "long":
                return [self._features_after(X, series, h) for series in self.series]
            X = X[list(self.feature_names)]
        elif self.form == "long":
            raise InputError("X must be a DataFrame with the columns unique_id, ds and the features, like y")
        steps = self.series[0].future(h)
        if isinstance(X, pd.DataFrame | pd.Series) and self.form in ("series", "frame") and not X.index.equals(steps):
            raise InputError(f"X must have the index of the steps to come, {steps[0]} to {steps[-1]}")
        features = _features(X, h)
        if features.shape[1] != F or not np.isfinite(features).all():
            raise InputError(f"X must have the shape {(h, F)} and only finite numbers, got the shape {features.shape}")
        return [features] * len(self.series)

    def _features_after(self, X: pd.DataFrame, series: Series, h: int) -> np.ndarray:
        rows = X[X["unique_id"] == series.name].set_index("ds")
        steps = series.future(h)
        wrong = steps[[(rows.index == step).sum() != 1 for step in steps]]
        if len(wrong):
            raise InputError(f"X must have one row for each step to come of {series.name!r}, but not for {wrong[0]}")
        features = _numbers(rows.loc[steps, list(self.feature_names or ())], "X")
        if not np.isfinite(features).all():
            raise InputError(f"X has NaN or infinity among the features of {series.name!r}: fill them in")
        return features

    def answer(self, forecasts: Sequence[Mapping[str, np.ndarray]]) -> Any:
        """Return forecasts in the form in which the series were given.

        ``forecasts``: for each series its columns, (h,) each. One column is the forecast of y, returned as an array
        (h,) or (h, k), a Series, a frame or a long frame. Several columns are returned as a frame: for several series
        side by side under the names of the series, in the long form as further columns.
        """
        frames = []
        for series, columns in zip(self.series, forecasts, strict=True):
            h = len(next(iter(columns.values())))
            index = pd.RangeIndex(1, h + 1, name="step") if self.form == "arrays" else series.future(h)
            frames.append(pd.DataFrame(dict(columns), index=index))
        only = next(iter(forecasts[0])) if len(forecasts[0]) == 1 else None
        if self.form == "long":
            long = []
            for series, frame in zip(self.series, frames, strict=True):
                if only is not None:
                    frame.columns = pd.Index(["y"])
                frame.insert(0, "ds", frame.index)
                frame.insert(0, "unique_id", series.name)
                long.append(frame)
            return pd.concat(long, ignore_index=True)
        if only is None:
            if self.form in ("array", "series"):
                return frames[0]
            return pd.concat(frames, axis=1, keys=[s.name for s in self.series])
        if self.form == "array":
            return frames[0][only].to_numpy()
        if self.form == "series":
            return frames[0][only].rename(self.series[0].name)
        values = np.stack([frame[only].to_numpy() for frame in frames], 1)
        if self.form == "arrays":
            return values
        return pd.DataFrame(values, index=frames[0].index, columns=self.columns)

    def to_state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the panel as facts for JSON and arrays; :meth:`from_state` restores it."""
        facts: dict[str, Any] = {"form": self.form, "series": [], "feature_names": self.feature_names}
        if self.columns is not None:
            facts["columns_name"] = self.columns.name
        arrays: dict[str, np.ndarray] = {}
        for number, series in enumerate(self.series):
            index, kind = series.index, "numbers"
            fact: dict[str, Any] = {"name": _plain(series.name), "index_name": index.name, "fill": series.fill}
            if isinstance(index, pd.DatetimeIndex):
                kind, fact["unit"], fact["zone"] = "dates", index.unit, None if index.tz is None else str(index.tz)
                fact["frequency"] = frequency(index)
            elif isinstance(index, pd.PeriodIndex):
                kind, fact["frequency"] = "periods", index.freqstr
            steps = index.asi8 if isinstance(index, pd.DatetimeIndex | pd.PeriodIndex) else index.to_numpy()
            arrays |= {
                f"series.{number}.values": series.values,
                f"series.{number}.features": series.features,
                f"series.{number}.index": steps,
            }
            if series.observed is not None:
                arrays[f"series.{number}.observed"] = series.observed
            facts["series"].append({**fact, "kind": kind})
        return facts, arrays

    @classmethod
    def from_state(cls, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> "Panel":
        series = []
        for number, fact in enumerate(facts["series"]):
            steps = arrays[f"series.{number}.index"]
            index: pd.Index
            if fact["kind"] == "dates":
                index = pd.DatetimeIndex(steps.view(f"M8[{fact['unit']}]"), name=fact["index_name"])
                if fact["zone"] is not None:
                    index = index.tz_localize("UTC").tz_convert(fact["zone"])
                index.freq = fact["frequency"]
            elif fact["kind"] == "periods":
                index = pd.PeriodIndex.from_ordinals(steps, freq=fact["frequency"], name=fact["index_name"])
            else:
                index = pd.Index(steps, name=fact["index_name"])
            values, features = (arrays[f"series.{number}.{part}"] for part in ("values", "features"))
            observed = arrays.get(f"series.{number}.observed")
            series.append(Series(fact["name"], values, features, index, observed, fact["fill"]))
        columns = None
        if facts["form"] == "frame":
            columns = pd.Index([s.name for s in series], name=facts["columns_name"])
        names = facts["feature_names"]
        return cls(facts["form"], tuple(series), columns, None if names is None else tuple(names))


def frequency(index: pd.Index) -> str | None:
    """Return the frequency of an index of dates or periods, as pandas spells it; None if it has none."""
    if isinstance(index, pd.DatetimeIndex):
        return index.freqstr or (pd.DatetimeIndex(index, freq="infer").freqstr if len(index) > 2 else None)
    return index.freqstr if isinstance(index, pd.PeriodIndex) else None


def season_of(index: pd.Index) -> int:
    """Return the season that an index suggests, in steps: 12 for months, 7 for days, ...; 1 if it suggests none."""
    spelled = frequency(index) or ""
    letters = spelled.split("-")[0].lstrip("0123456789")
    steps = 0 if spelled[:1].isdigit() else SEASONS.get(letters) or SEASONS.get(letters.removesuffix("S").rstrip("E"))
    return steps or 1


Part = tuple[Any, np.ndarray, pd.Index, np.ndarray | None]  # name, values, index, features if y has them


def _forms(y: Any) -> tuple[str, list[Part], pd.Index | None]:
    """Return the form of y, its series and, for a frame, the columns."""
    if isinstance(y, pd.Series):
        return "series", [(y.name, _numbers(y, "y"), y.index, None)], None
    if isinstance(y, pd.DataFrame) and set(LONG) <= set(y.columns):
        return "long", _long(y), None
    if isinstance(y, pd.DataFrame):
        if not len(y.columns) or y.columns.has_duplicates:
            raise InputError("y has no columns, or two with the same name: give one for each series")
        return "frame", [(name, _numbers(y[name], f"series {name!r}"), y.index, None) for name in y.columns], y.columns
    if isinstance(y, Sequence) and not isinstance(y, str) and any(np.ndim(part) for part in y):
        arrays = [_numbers(part, f"series {number}") for number, part in enumerate(y)]
    else:
        array = _numbers(y, "y")
        if array.ndim == 1:
            return "array", [(None, array, pd.RangeIndex(len(array)), None)], None
        if array.ndim != 2 or not array.shape[1]:
            raise InputError(f"y must be one series (steps,) or several (steps, series), got the shape {array.shape}")
        arrays = list(array.T)
    if (wrong := next((a.shape for a in arrays if a.ndim != 1), None)) is not None:
        raise InputError(f"y must be a list of series (steps,), got one with the shape {wrong}")
    return "arrays", [(number, a, pd.RangeIndex(len(a)), None) for number, a in enumerate(arrays)], None


def _long(y: pd.DataFrame) -> list[Part]:
    parts: list[Part] = []
    others = [c for c in y.columns if c not in LONG]
    if y["unique_id"].isna().any() or y["ds"].isna().any():
        raise InputError("y has rows without unique_id or ds: leave them out")
    for name, rows in y.groupby("unique_id", sort=False, observed=True):
        rows = rows.sort_values("ds", kind="stable")
        features = [_numbers(rows[c], f"feature {c!r}") for c in others]
        stacked = np.stack(features, 1) if features else np.empty((len(rows), 0))
        index = pd.Index(rows["ds"]).rename(None)
        parts.append((name, _numbers(rows["y"], f"series {name!r}"), index, stacked))
    if not parts:
        raise InputError("y has no rows: at least one series is needed")
    return parts


def _numbers(values: Any, where: str) -> np.ndarray:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where} must hold numbers: {error}") from None


def _features(X: Any, N: int) -> np.ndarray:
    if X is None:
        return np.empty((N, 0))
    features = _numbers(X, "X")
    features = features[:, None] if features.ndim == 1 else features
    if features.ndim != 2 or len(features) != N:
        raise InputError(f"X must have the shape ({N}, features), one row per step, got {features.shape}")
    return features


def _checked(series: Series, where: str) -> Series:
    """Return the series. Raises InputError that says what is wrong and where; missing values are not checked."""
    values, index = series.values, series.index
    if not len(values):
        raise InputError(f"{where} has no steps: at least one is needed")
    dates = isinstance(index, pd.DatetimeIndex | pd.PeriodIndex)
    if not dates and not pd.api.types.is_integer_dtype(index):
        raise InputError(f"{where} has an index of {index.dtype}: it must be dates, periods or whole numbers in order")
    if not index.is_monotonic_increasing or index.has_duplicates:
        at = next(i for i in range(1, len(index)) if not index[i] > index[i - 1])
        raise InputError(
            f"{where} has an index that does not increase at {index[at]}: sort it, with each step only once"
        )
    _check_regular(index, where)
    if np.isinf(values).any() or np.isinf(series.features).any():
        at = int((np.isinf(values) | np.isinf(series.features).any(1)).argmax())
        raise InputError(f"{where} or its features have infinity at {index[at]}: give a number, or NaN with fill=")
    if np.isnan(series.features).any():
        at = int(np.isnan(series.features).any(1).argmax())
        raise InputError(f"the features of {where} have NaN at {index[at]}: fill them in")
    return series


def _filled(series: Series, fill: str | float | None) -> Series:
    """Fill NaN with values. If these come from neighbours, the steps before the first value are dropped."""
    values = series.values
    missing, steps = np.isnan(values), np.arange(len(values))
    if fill == "linear":
        filled = np.interp(steps, steps[~missing], values[~missing])
    elif fill == "forward":
        filled = values[np.maximum.accumulate(np.where(missing, 0, steps))]
    else:
        return replace(series, values=np.where(missing, float(fill or 0), values), observed=~missing, fill=fill)
    first = int((~missing).argmax())
    return Series(series.name, filled[first:], series.features[first:], series.index[first:], ~missing[first:], fill)


def _with_frequency(series: list[Series]) -> list[Series]:
    """Give series of one or two dates, too few to tell their frequency, the frequency of the others."""
    frequencies = {frequency(s.index) for s in series if isinstance(s.index, pd.DatetimeIndex)} - {None}
    if len(frequencies) != 1:
        return series
    [steps] = frequencies
    regular = []
    for s in series:
        index = s.index
        if isinstance(index, pd.DatetimeIndex) and frequency(index) is None:
            try:
                index = pd.DatetimeIndex(index, freq=steps)
            except ValueError:
                raise InputError(
                    f"{s.called} has dates ({', '.join(map(str, index))}) that do not fit those of the other series, "
                    f"whose frequency is {steps}: y.asfreq(...) or y.resample(...) makes them alike (--frequency)"
                ) from None
        regular.append(replace(s, index=index))
    return regular


def _check_regular(index: pd.Index, where: str) -> None:
    if len(index) < 3:
        return
    if isinstance(index, pd.DatetimeIndex):
        if frequency(index) is None:
            gaps = np.diff(index.asi8)
            odd = int(np.abs(gaps - np.median(gaps)).argmax())
            raise InputError(
                f"{where} has dates without a regular frequency (see between {index[odd]} and {index[odd + 1]}): "
                "y.asfreq(...) or y.resample(...) makes them regular (--frequency), and fill= (--fill) fills the gaps"
            )
        return
    periods = isinstance(index, pd.PeriodIndex)
    gaps = np.diff(index.asi8 if periods else index.to_numpy())
    step = index.freq.n if periods else gaps[0]
    if (gaps != step).any():
        odd = int((gaps != step).argmax())
        raise InputError(f"{where} lacks steps between {index[odd]} and {index[odd + 1]}: insert them as NaN")


def _plain(name: Hashable) -> Any:
    """Return a name as a value for JSON. Raises InputError if it cannot be one."""
    name = name.item() if isinstance(name, np.generic) else name
    if name is None or isinstance(name, bool | int | float | str):
        return name
    raise InputError(f"the name {name!r} of a series cannot be saved: use strings or numbers as names")
