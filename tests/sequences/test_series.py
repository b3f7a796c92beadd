"""Series are read from every form, and forecasts have the same form, with the index continued."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.errors import InputError
from headgate.sequences.series import Panel, Series, frequency, season_of
from headgate.storage import files

nan, inf = np.nan, np.inf
quick = settings(deadline=None, max_examples=60)
N, H = 13, 5  # steps of the history and of the forecast

# Each index, from its first step to the last of the forecast, and the season it suggests
INDICES = {
    "months": (pd.date_range("2020-11-01", periods=N + H, freq="MS"), 12),
    "month ends": (pd.date_range("2020-11-30", periods=N + H, freq="ME"), 12),
    "business month ends": (pd.date_range("2020-11-30", periods=N + H, freq="BME"), 12),
    "days": (pd.date_range("2024-02-20", periods=N + H, freq="D"), 7),
    "days in a zone": (pd.date_range("2024-03-25", periods=N + H, freq="D", tz="Europe/Berlin"), 7),
    "business days": (pd.date_range("2024-02-20", periods=N + H, freq="B"), 5),
    "weeks": (pd.date_range("2024-02-21", periods=N + H, freq="W-WED"), 52),
    "quarter starts": (pd.date_range("2020-02-01", periods=N + H, freq="QS-FEB"), 4),
    "quarter ends": (pd.date_range("2020-03-31", periods=N + H, freq="QE"), 4),
    "years": (pd.date_range("1990-01-01", periods=N + H, freq="YS"), 1),
    "hours": (pd.date_range("2024-02-28 20:00", periods=N + H, freq="h"), 24),
    "hours, summer begins in the history": (
        pd.date_range("2024-03-30 18:00", periods=N + H, freq="h", tz="Europe/Berlin"), 24
    ),
    "hours, summer ends in the forecast": (
        pd.date_range("2024-10-26 12:00", periods=N + H, freq="h", tz="Europe/Berlin"), 24
    ),
    "quarters of an hour": (pd.date_range("2024-02-28 21:00", periods=N + H, freq="15min"), 1),
    "two days": (pd.date_range("2024-02-20", periods=N + H, freq="2D"), 1),
    "seconds": (pd.date_range("2024-02-20", periods=N + H, freq="s", unit="s"), 1),
    "periods: months": (pd.period_range("2020-11", periods=N + H, freq="M"), 12),
    "periods: quarters": (pd.period_range("2020Q3", periods=N + H, freq="Q-MAR"), 4),
    "periods: three months": (pd.period_range("2020-11", periods=N + H, freq="3M"), 1),
    "periods: days": (pd.period_range("2024-02-20", periods=N + H, freq="D"), 7),
    "range": (pd.RangeIndex(N + H), 1),
    "range by 3": (pd.RangeIndex(-4, -4 + 3 * (N + H), 3), 1),
    "integers by 5": (pd.Index(1900 + 5 * np.arange(N + H), dtype="int32"), 1),
}  # fmt: skip


def values(n: int, series: int = 0) -> np.ndarray:
    """Return numbers that all differ, also between series."""
    return np.arange(n) ** 2 / 7 + 100.0 * series - 3


def bare(index: pd.Index) -> pd.Index:
    """Return the index without the frequency that pandas keeps with dates."""
    index = index.copy()
    if isinstance(index, pd.DatetimeIndex):
        index.freq = None
    return index


def refused(message: str):
    return pytest.raises(InputError, match=f"^{re.escape(message)}$")


def assert_index(result: pd.Index, expected: pd.Index) -> None:
    assert result.name == expected.name
    if "int" in str(expected.dtype):
        assert "int" in str(result.dtype)
        assert result.tolist() == expected.tolist()
    else:
        pd.testing.assert_index_equal(bare(result), bare(expected), exact=True)


def assert_series(result: Series, name, expected, index: pd.Index, features=None) -> None:
    assert type(result.name) is type(name)
    assert result.name == name
    assert result.values.dtype == result.features.dtype == np.float64
    np.testing.assert_array_equal(result.values, expected)
    np.testing.assert_array_equal(result.features, np.empty((len(expected), 0)) if features is None else features)
    assert_index(result.index, index)
    assert len(result) == len(expected)


def long_form(lengths: dict, *, dates: bool = True, **more) -> pd.DataFrame:
    """Make a long frame of series of these lengths, one after the other, each in order."""
    parts = []
    for number, (name, n) in enumerate(lengths.items()):
        ds = pd.date_range(f"202{number}-01-01", periods=n, freq="MS") if dates else 10 * number + 2 * np.arange(n)
        columns = {key: np.arange(n) * step + number for key, step in more.items()}
        parts.append(pd.DataFrame({"unique_id": name, "ds": ds, "y": values(n, number), **columns}))
    return pd.concat(parts, ignore_index=True)


# Reading


@pytest.mark.parametrize("kind", [list, tuple, np.array, lambda v: np.array(v, "float32"), lambda v: list(np.array(v))])
def test_one_series_of_numbers(kind):
    panel = Panel.read(kind([3, 1, 4, 1, 5]))
    assert (panel.form, panel.columns, panel.feature_names) == ("array", None, None)
    [series] = panel.series
    assert_series(series, None, [3, 1, 4, 1, 5], pd.RangeIndex(5))


@pytest.mark.parametrize("kind", [np.array, np.ndarray.tolist])
def test_columns_of_an_array_or_rows_of_a_list(kind):
    array = np.stack([values(7, number) for number in range(3)], 1)
    panel = Panel.read(kind(array.T) if kind is np.ndarray.tolist else kind(array))
    assert (panel.form, len(panel.series)) == ("arrays", 3)
    for number, series in enumerate(panel.series):
        assert_series(series, number, values(7, number), pd.RangeIndex(7))


def test_a_list_of_series_of_different_lengths():
    panel = Panel.read([values(4), values(7, 1).tolist(), pd.Series(values(2, 2))])
    assert panel.form == "arrays"
    for number, (series, n) in enumerate(zip(panel.series, (4, 7, 2), strict=True)):
        assert_series(series, number, values(n, number), pd.RangeIndex(n))


@pytest.mark.parametrize("known", [True, False], ids=["with frequency", "inferred"])
@pytest.mark.parametrize("kind", INDICES)
def test_a_pandas_series(kind, known):
    index = INDICES[kind][0][:N].rename("when")
    panel = Panel.read(pd.Series(values(N), index if known else bare(index), name="sales"))
    assert panel.form == "series"
    [series] = panel.series
    assert_series(series, "sales", values(N), index)


def test_a_wide_frame():
    index = pd.period_range("2020-11", periods=6, freq="M")
    columns = pd.Index(["b", "a"], name="shop")
    frame = pd.DataFrame(np.stack([values(6), values(6, 1)], 1), index, columns)
    panel = Panel.read(frame)
    assert panel.form == "frame"
    pd.testing.assert_index_equal(panel.columns, columns)
    for number, series in enumerate(panel.series):
        assert_series(series, "ba"[number], values(6, number), index)


@pytest.mark.parametrize("dates", [True, False])
@pytest.mark.parametrize("categorical", [True, False])
def test_the_long_form_in_any_order_of_rows(dates, categorical):
    ordered = long_form({"b": 5, "a": 3, "c": 4}, dates=dates, price=2, day=-3)
    shuffled = ordered.sample(frac=1, random_state=3)[["price", "y", "unique_id", "day", "ds"]]
    if categorical:
        shuffled["unique_id"] = pd.Categorical(shuffled["unique_id"], ["z", "c", "a", "b"])
    panel = Panel.read(shuffled)
    assert (panel.form, panel.feature_names) == ("long", ("price", "day"))
    assert [s.name for s in panel.series] == list(dict.fromkeys(shuffled["unique_id"]))  # in order of appearance
    for series in panel.series:
        rows = ordered[ordered["unique_id"] == series.name]
        assert_series(series, series.name, rows["y"], pd.Index(rows["ds"]).rename(None), rows[["price", "day"]])


def test_the_long_form_without_features_and_with_numbers_as_names():
    panel = Panel.read(long_form({4: 3, 2: 5}))
    assert panel.feature_names == ()
    assert [(s.name, len(s), s.features.shape) for s in panel.series] == [(4, 3, (3, 0)), (2, 5, (5, 0))]


@pytest.mark.parametrize(
    ("X", "names"),
    [
        (np.arange(12.0).reshape(6, 2), None),
        (np.arange(6), None),
        (list(range(6)), None),
        (pd.Series(np.arange(6)), None),
        (pd.DataFrame({"p": np.arange(6), "day": np.arange(6) % 4, "c": 2.5}), ("p", "day", "c")),
    ],
)
def test_features_are_shared_by_all_series(X, names):
    panel = Panel.read(np.ones((6, 3)), X)
    assert panel.feature_names == names
    expected = np.asarray(X, float).reshape(6, -1)
    for series in panel.series:
        np.testing.assert_array_equal(series.features, expected)


def test_arguments_are_not_changed():
    y = pd.Series([1.0, nan, 4.0], pd.date_range("2020-01-01", periods=3, freq="MS"), name="a")
    X = np.array([[1.0], [2.0], [3.0]])
    kept = y.copy(), X.copy()
    Panel.read(y, X, fill="linear")
    pd.testing.assert_series_equal(y, kept[0])
    np.testing.assert_array_equal(X, kept[1])


@pytest.mark.parametrize(("end", "kept"), [(4, 4), (-2, 5), (7, 7)])
def test_until(end, kept):
    panel = Panel.read(np.stack([values(7), values(7, 1)], 1), np.arange(7.0) + 10)
    for number, series in enumerate(panel.until(end).series):
        expected = np.arange(kept)[:, None] + 10
        assert_series(series, number, values(7, number)[:kept], pd.RangeIndex(kept), expected)


# Future steps


@pytest.mark.parametrize("known", [True, False], ids=["with frequency", "inferred"])
@pytest.mark.parametrize("kind", INDICES)
def test_the_index_is_continued(kind, known):
    index, season = INDICES[kind]
    index = index.rename("when")
    history = index[:N] if known else bare(index[:N])
    [series] = Panel.read(pd.Series(values(N), history)).series
    for h in (1, H):
        future = series.future(h)
        assert_index(future, index[N : N + h])
    assert season_of(history) == season


def test_hours_continue_through_the_end_of_summer_time():
    [series] = Panel.read(pd.Series(values(N), INDICES["hours, summer ends in the forecast"][0][:N])).series
    assert [f"{t:%H %z}" for t in series.future(H)] == ["01 +0200", "02 +0200", "02 +0100", "03 +0100", "04 +0100"]


def test_a_single_step_of_numbers_is_continued_by_one():
    [series] = Panel.read([4.0]).series
    assert series.future(3).tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (pd.date_range("2020-01-01", periods=9, freq="MS"), "MS"),
        (bare(pd.date_range("2020-01-01", periods=9, freq="MS")), "MS"),
        (bare(pd.date_range("2020-01-01", periods=2, freq="MS")), None),  # too few to tell
        (pd.period_range("2020-01", periods=2, freq="Q-NOV"), "Q-NOV"),
        (pd.RangeIndex(4), None),
    ],
)
def test_frequency(index, expected):
    assert frequency(index) == expected


# Missing values


def as_pandas_fills(y: pd.Series, fill) -> pd.Series:
    if fill == "linear":
        return y.interpolate("linear").dropna()
    return y.ffill().dropna() if fill == "forward" else y.fillna(fill)


@pytest.mark.parametrize("fill", ["linear", "forward", 0, -2.5, np.float32(7)])
@pytest.mark.parametrize(
    "y",
    [
        [1.0, 2.0, 5.0],
        [nan, nan, 4.0, 1.0],
        [4.0, nan, nan, 1.0, nan, 9.0],
        [2.0, 3.0, nan, nan],
        [nan, 3.0, nan, 8.0, nan],
    ],
)
def test_missing_values_are_filled_as_pandas_does(y, fill):
    y = pd.Series(y, pd.date_range("2020-11-01", periods=len(y), freq="MS"))
    [series] = Panel.read(y, np.arange(len(y)) + 40, fill=fill).series
    expected = as_pandas_fills(y, fill)
    assert_series(series, None, expected, expected.index, (np.arange(len(y)) + 40)[-len(expected) :, None])


@quick
@given(
    y=st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=30),
    fill=st.sampled_from(["linear", "forward", 3]),
)
def test_any_missing_values_are_filled_as_pandas_does(y, fill):
    array = np.array(y, float)
    if np.isnan(array).all():
        with pytest.raises(InputError, match=r"give at least one$"):
            Panel.read(array, fill=fill)
        return
    [series] = Panel.read(array, fill=fill).series
    expected = as_pandas_fills(pd.Series(array), fill)
    np.testing.assert_allclose(series.values, expected, rtol=1e-12, atol=1e-9)
    np.testing.assert_array_equal(series.index, expected.index)


@pytest.mark.parametrize("fill", ["linear", "forward"])
def test_each_series_begins_with_its_first_value(fill):
    panel = Panel.read(np.array([[nan, 1.0], [5.0, nan], [nan, 2.0], [6.0, 8.0]]), fill=fill)
    assert [s.index.tolist() for s in panel.series] == [[1, 2, 3], [0, 1, 2, 3]]
    between = [5.5, 1.5] if fill == "linear" else [5.0, 1.0]
    np.testing.assert_array_equal(panel.series[0].values, [5.0, between[0], 6.0])
    np.testing.assert_array_equal(panel.series[1].values, [1.0, between[1], 2.0, 8.0])


def test_missing_values_of_the_long_form_are_filled_series_by_series():
    frame = long_form({"b": 4, "a": 3})
    frame.loc[[3, 4], "y"] = nan  # the last of b, and the first of a
    b, a = Panel.read(frame, fill="linear").series
    np.testing.assert_array_equal(b.values, [*values(3), values(3)[-1]])
    np.testing.assert_array_equal(a.values, values(3, 1)[1:])
    assert a.index.tolist() == frame["ds"][5:].tolist()


@pytest.mark.parametrize(
    ("y", "fill", "end", "expected"),
    [
        ([1, nan, 3, nan, nan, 9], "linear", 6, [1, 2, 3, 5, 7, 9]),
        ([1, nan, 3, nan, nan, 9], "linear", 5, [1, 2, 3, 3, 3]),  # not 5 and 7, which the later 9 would give
        ([1, nan, 3, nan, nan, 9], "linear", -1, [1, 2, 3, 3, 3]),
        ([1, nan, 3, nan, nan, 9], "linear", 4, [1, 2, 3, 3]),
        ([1, nan, 3, nan, nan, 9], "linear", -4, [1, 1]),
        ([1, nan, 3, nan, nan, 9], "linear", 1, [1]),
        ([1, nan, 3, nan, nan, 9], "forward", 5, [1, 1, 3, 3, 3]),
        ([1, nan, 3, nan, nan, 9], "forward", 2, [1, 1]),
        ([1, nan, 3, nan, nan, 9], 7, 5, [1, 7, 3, 7, 7]),
        ([nan, nan, 4, 5], -2, 2, [-2, -2]),
        ([nan, 2, nan, 6], "linear", 2, [2, 2]),  # steps before the first value are dropped
        ([nan, 2, nan, 6], "forward", 3, [2, 2, 6]),
    ],
)
def test_until_fills_gaps_from_earlier_values_alone(y, fill, end, expected):
    X = np.arange(2.0 * len(y)).reshape(len(y), 2)
    panel = Panel.read(y, X, fill=fill)
    [series] = panel.until(end).series
    left_out = len(y) - len(panel.series[0])
    assert_series(
        series, None, expected, pd.RangeIndex(left_out, left_out + len(expected)), X[left_out:][: len(series)]
    )
    known = np.array(y)[left_out:][: len(expected)]
    np.testing.assert_array_equal(series.seen, known)
    if np.isnan(known).any():
        np.testing.assert_array_equal(series.observed, ~np.isnan(known))
        assert series.fill == fill
        assert_series(series.until(len(series)), None, expected, series.index, series.features)
    else:
        assert series.observed is None


@quick
@given(
    y=st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=20),
    fill=st.sampled_from(["linear", "forward", 3]),
    ends=st.lists(st.integers(1, 20), min_size=1, max_size=3),
)
def test_until_does_not_depend_on_later_values(y, fill, ends):
    """A series cut at an end equals the one read from the values before it, also if cut repeatedly."""
    array = np.array([0.0, *y], float)  # so that each cut has a value
    [series] = Panel.read(array, fill=fill).series
    for end in sorted(ends, reverse=True):
        series = series.until(end)
        [expected] = Panel.read(array[:end], fill=fill).series
        np.testing.assert_array_equal(series.values, expected.values)
        np.testing.assert_array_equal(series.seen, expected.seen)
        assert_index(series.index, expected.index)


def test_which_values_were_observed():
    y = np.array([[nan, 1.0, 1.0], [5.0, nan, 2.0], [nan, 2.0, 3.0], [6.0, nan, 4.0]])
    a, b, c = Panel.read(y, fill="linear").series
    assert (a.observed.tolist(), a.fill) == ([True, False, True], "linear")
    assert (b.observed.tolist(), b.fill) == ([True, False, True, False], "linear")
    assert (c.observed, c.fill) == (None, None)
    for series, column, first in ((a, 0, 1), (b, 1, 0), (c, 2, 0)):
        np.testing.assert_array_equal(series.seen, y[first:, column])
    [whole, *_] = Panel.read(y, fill=0.5).series
    assert (whole.values.tolist(), whole.observed.tolist()) == ([0.5, 5, 0.5, 6], [False, True, False, True])


@pytest.mark.parametrize("fill", ["linear", "forward", 0])
def test_gaps_can_be_kept(fill):
    y = pd.Series([nan, 2.0, nan, 5.0], MONTHS[:4])
    [series] = Panel.read(y, fill=fill, gaps=True).series
    assert_series(series, None, y, MONTHS[:4])  # also before the first value
    np.testing.assert_array_equal(series.seen, y)
    np.testing.assert_array_equal(series.until(3).values, y[:3])


def test_gaps_are_kept_only_if_fill_allows_them():
    with refused(f"y has NaN at 1 (1 missing in all): {HINT}"):
        Panel.read([1.0, nan], gaps=True)
    with refused("y has NaN at 0 (2 missing in all): give at least one"):
        Panel.read([nan, nan], fill="linear", gaps=True)
    with refused("y or its features have infinity at 1: give a number, or NaN with fill="):
        Panel.read([nan, inf], fill="linear", gaps=True)


# Forecasts


def answer(panel: Panel, *names: str):
    """Return an answer of H steps; its value at step t of column c of series s is 100 s + 10 c + t."""
    result = [{c: 100.0 * s + 10 * i + np.arange(H) for i, c in enumerate(names)} for s in range(len(panel.series))]
    return panel.answer(result)


def test_the_answer_to_an_array():
    panel = Panel.read(values(N))
    one = answer(panel, "forecast")
    assert type(one) is np.ndarray
    np.testing.assert_array_equal(one, np.arange(5.0))
    expected = pd.DataFrame({"lower": np.arange(5.0), "upper": 10 + np.arange(5.0)}, pd.RangeIndex(N, N + H))
    pd.testing.assert_frame_equal(answer(panel, "lower", "upper"), expected)


def test_the_answer_to_several_arrays():
    panel = Panel.read(np.ones((N, 3)))
    one = answer(panel, "forecast")
    assert type(one) is np.ndarray
    np.testing.assert_array_equal(one, np.add.outer(np.arange(5.0), [0, 100, 200]))
    several = answer(panel, "lower", "upper")
    assert several.columns.tolist() == [(s, c) for s in range(3) for c in ("lower", "upper")]
    np.testing.assert_array_equal(several, np.add.outer(np.arange(5.0), [0, 10, 100, 110, 200, 210]))
    assert_index(several.index, pd.RangeIndex(1, H + 1, name="step"))


@pytest.mark.parametrize("kind", INDICES)
def test_the_answer_to_a_series(kind):
    index = INDICES[kind][0].rename("when")
    panel = Panel.read(pd.Series(values(N), index[:N], name="sales"))
    one, several = answer(panel, "forecast"), answer(panel, "lower", "upper")
    assert_index(one.index, index[N:])
    assert_index(several.index, index[N:])
    assert (type(one), one.name, one.tolist()) == (pd.Series, "sales", [0, 1, 2, 3, 4])
    assert several.columns.tolist() == ["lower", "upper"]
    np.testing.assert_array_equal(several, np.add.outer(np.arange(5.0), [0, 10]))


def test_the_answer_to_a_frame():
    index, columns = INDICES["quarter ends"][0], pd.Index(["b", "a"], name="shop")
    panel = Panel.read(pd.DataFrame(np.ones((N, 2)), index[:N], columns))
    expected = pd.DataFrame(np.add.outer(np.arange(5.0), [0, 100]), index[N:], columns)
    pd.testing.assert_frame_equal(answer(panel, "forecast"), expected)
    several = answer(panel, "lower", "upper")
    pd.testing.assert_index_equal(several.index, index[N:])
    assert several.columns.tolist() == [("b", "lower"), ("b", "upper"), ("a", "lower"), ("a", "upper")]
    np.testing.assert_array_equal(several["a"]["upper"], 110 + np.arange(5.0))


def test_the_answer_to_the_long_form():
    frame = long_form({"b": 4, "a": 7}, price=2)
    expected = pd.DataFrame({
        "unique_id": ["b"] * H + ["a"] * H,
        "ds": [*pd.date_range("2020-05-01", periods=H, freq="MS"), *pd.date_range("2021-08-01", periods=H, freq="MS")],
        "y": [*np.arange(5.0), *100 + np.arange(5.0)],
    })  # fmt: skip
    panel = Panel.read(frame)
    pd.testing.assert_frame_equal(answer(panel, "forecast"), expected.astype({"ds": frame["ds"].dtype}))
    several = answer(panel, "lower", "upper")
    assert several.columns.tolist() == ["unique_id", "ds", "lower", "upper"]
    assert several["unique_id"].tolist() == expected["unique_id"].tolist()
    assert several["ds"].tolist() == expected["ds"].tolist()
    np.testing.assert_array_equal(several["lower"], expected["y"])
    np.testing.assert_array_equal(several["upper"], expected["y"] + 10)


# Features of the steps to come


def test_features_ahead_of_arrays():
    panel = Panel.read(np.ones((6, 3)), np.ones((6, 2)))
    X = np.arange(8.0).reshape(4, 2)
    for given_as in (X, X.tolist(), pd.DataFrame(X, columns=["b", "a"])):
        result = panel.ahead(given_as, 4)
        assert len(result) == 3
        for features in result:
            np.testing.assert_array_equal(features, X)
    [features] = Panel.read(np.ones(6), np.ones(6)).ahead([3, 1, 4], 3)
    np.testing.assert_array_equal(features, [[3], [1], [4]])


def test_no_features_ahead():
    result = Panel.read(np.ones((6, 3))).ahead(None, 4)
    assert [(f.shape, f.dtype) for f in result] == [((4, 0), np.float64)] * 3


def test_features_ahead_are_taken_by_name():
    panel = Panel.read(np.ones(6), pd.DataFrame({"p": np.arange(6), "day": 1}))
    [features] = panel.ahead(pd.DataFrame({"day": [5, 6, 7], "else": 9, "p": [1, 2, 3]}), 3)
    np.testing.assert_array_equal(features, [[1, 5], [2, 6], [3, 7]])
    [features] = panel.ahead([[1, 5], [2, 6]], 2)  # without names, columns are taken in order
    np.testing.assert_array_equal(features, [[1, 5], [2, 6]])


@pytest.mark.parametrize("dates", [True, False])
def test_features_ahead_of_the_long_form(dates):
    lengths = {"b": 4, "a": 7}
    panel = Panel.read(long_form(lengths, dates=dates, price=2, day=-3))
    rows = long_form({name: n + 6 for name, n in lengths.items()}, dates=dates, day=-3, price=2)
    more = rows.assign(unique_id="z")  # an additional series, which is ignored
    result = panel.ahead(pd.concat([rows, more]).sample(frac=1, random_state=5).drop(columns="y"), 3)
    for series, features in zip(panel.series, result, strict=True):
        expected = rows[rows["unique_id"] == series.name].iloc[len(series) : len(series) + 3]
        np.testing.assert_array_equal(features, expected[["price", "day"]])


X_INDEX = "X must have the index of y: X.reindex(y.index) aligns its rows"


@pytest.mark.parametrize("frame", [True, False])
@pytest.mark.parametrize("column", [True, False])
@pytest.mark.parametrize(
    "index",
    [
        pd.RangeIndex(6),
        pd.date_range("2020-01-01", periods=6, freq="MS")[::-1],
        pd.date_range("2020-02-01", periods=6, freq="MS"),
        pd.period_range("2020-01", periods=6, freq="M"),
    ],
    ids=["numbers", "another order", "a month later", "periods"],
)
def test_features_must_have_the_index_of_the_series(index, column, frame):
    y = pd.Series(values(6), MONTHS, name="a")
    y = y.to_frame() if frame else y
    X = pd.DataFrame({"p": np.arange(6.0)}, index)
    right = X.set_axis(bare(MONTHS))
    X, right = (X["p"], right["p"]) if column else (X, right)
    with refused(X_INDEX):
        Panel.read(y, X)
    for given_as in (right, X.to_numpy()):  # an array has no index
        np.testing.assert_array_equal(Panel.read(y, given_as).series[0].features[:, 0], np.arange(6))
    assert len(Panel.read(values(6), X).series) == 1  # neither has y


def test_too_few_features_are_reported_before_their_index():
    with refused("X must have the shape (6, features), one row per step, got (5, 1)"):
        Panel.read(pd.Series(values(6), MONTHS), pd.Series(np.ones(5), MONTHS[:5]))


@pytest.mark.parametrize("frame", [True, False])
def test_features_ahead_must_have_the_index_of_the_steps_to_come(frame):
    y = pd.Series(values(4), MONTHS[:4], name="a")
    panel = Panel.read(y.to_frame() if frame else y, pd.DataFrame({"p": np.arange(4.0), "q": 1}, MONTHS[:4]))
    X = pd.DataFrame({"q": [3.0, 4], "p": [5.0, 6]}, bare(MONTHS[4:]))
    for given_as in (X, [[5, 3], [6, 4]]):
        np.testing.assert_array_equal(panel.ahead(given_as, 2), [[[5, 3], [6, 4]]])
    for index in (pd.RangeIndex(2), MONTHS[3:5], MONTHS[4:][::-1], MONTHS[4:].to_period("M")):
        with refused("X must have the index of the steps to come, 2020-05-01 00:00:00 to 2020-06-01 00:00:00"):
            panel.ahead(X.set_axis(index), 2)
    with refused("X must have the index of the steps to come, 2020-05-01 00:00:00 to 2020-05-01 00:00:00"):
        panel.ahead(X, 1)
    np.testing.assert_array_equal(panel.ahead(X[:1], 1), [[[5, 3]]])
    for past in (pd.Series(np.ones(4), MONTHS[:4]), np.ones(4)):  # without names
        column = Panel.read(y.to_frame() if frame else y, past)
        for given_as in (X["p"], X[["p"]], X["p"].to_numpy()):
            np.testing.assert_array_equal(column.ahead(given_as, 2), [[[5], [6]]])
        for wrong in (X["p"][::-1], X[["p"]].reset_index(drop=True)):
            with refused("X must have the index of the steps to come, 2020-05-01 00:00:00 to 2020-06-01 00:00:00"):
                column.ahead(wrong, 2)
    array = Panel.read(values(4), pd.DataFrame({"p": np.arange(4.0), "q": 1}))
    np.testing.assert_array_equal(array.ahead(X, 2), [[[5, 3], [6, 4]]])


# On disk


def again(panel: Panel, folder: Path) -> Panel:
    facts, arrays = panel.to_state()
    content = files.format_arrays(arrays)
    return Panel.from_state(json.loads(json.dumps(facts)), files.parse_arrays(content, folder / "x"))


def assert_same(result: Panel, expected: Panel) -> None:
    assert (result.form, result.feature_names) == (expected.form, expected.feature_names)
    assert (result.columns is None) == (expected.columns is None)
    if expected.columns is not None:
        pd.testing.assert_index_equal(result.columns, expected.columns, exact="equiv")
    for mine, theirs in zip(result.series, expected.series, strict=True):
        assert_series(mine, theirs.name, theirs.values, theirs.index, theirs.features)
        assert_index(mine.future(H), theirs.future(H))
        assert (mine.fill, type(mine.fill)) == (theirs.fill, type(theirs.fill))
        assert (mine.observed is None) == (theirs.observed is None)
        if theirs.observed is not None:
            assert mine.observed.dtype == bool
            assert mine.observed.tolist() == theirs.observed.tolist()


@pytest.mark.parametrize("known", [True, False], ids=["with frequency", "inferred"])
@pytest.mark.parametrize("kind", INDICES)
def test_every_index_survives_a_round_trip(tmp_path, kind, known):
    index = INDICES[kind][0][:N].rename("when")
    panel = Panel.read(
        pd.Series(values(N), index if known else bare(index), name="sales"), np.arange(2 * N).reshape(N, 2)
    )
    result = again(panel, tmp_path)
    assert_same(result, panel)
    assert season_of(result.series[0].index) == season_of(index)


@pytest.mark.parametrize(
    "y",
    [
        values(5),
        np.ones((5, 3)),
        [values(4), values(6, 1)],
        pd.DataFrame(np.ones((5, 2)), columns=pd.Index(["b", "a"], name="shop")),
        pd.DataFrame(np.ones((5, 3))),
        long_form({"b": 4, "a": 7}, price=2),
        long_form({3: 4, 1: 7}, dates=False),
        pd.Series(values(5), name=2.5),
    ],
)
def test_every_form_survives_a_round_trip(tmp_path, y):
    panel = Panel.read(y)
    assert_same(again(panel, tmp_path), panel)


@pytest.mark.parametrize("fill", ["linear", "forward", 0, 2.5])
def test_gaps_survive_a_round_trip(tmp_path, fill):
    frame = pd.DataFrame({"a": [nan, 2, nan, 4, 9], "b": [1.0, 2, 3, 4, 5]}, MONTHS[:5])
    panel = Panel.read(frame, fill=fill)
    result = again(panel, tmp_path)
    assert_same(result, panel)
    assert_same(result.until(-2), panel.until(-2))


def test_names_of_features_survive_a_round_trip(tmp_path):
    panel = Panel.read(np.ones(5), pd.DataFrame({"p": np.arange(5), "day": 1}))
    assert again(panel, tmp_path).feature_names == ("p", "day")


def test_a_name_that_json_cannot_represent_is_refused():
    with refused("the name ('a', 3) of a series cannot be saved: use strings or numbers as names"):
        Panel.read(pd.Series(values(5), name=("a", 3))).to_state()


# Errors


MONTHS = pd.date_range("2020-01-01", periods=6, freq="MS")
SHAPES = "y must be one series (steps,) or several (steps, series), got the shape "
FILL = 'fill must be None, "linear", "forward" or a number, got '
KIND = "it must be dates, periods or whole numbers in order"
SORT = "sort it, with each step only once"
HINT = 'fill="linear" or "forward" (--fill) fills them in'
LONG = "X must have the columns unique_id, ds, price, day: "


def long_without(column: str) -> pd.DataFrame:
    frame = long_form({"b": 4, "a": 3})
    frame[column] = frame[column].astype(object)
    frame.loc[2, column] = None
    return frame


@pytest.mark.parametrize(
    ("y", "X", "message"),
    [
        ([1, nan, 3, nan], None, f"y has NaN at 1 (2 missing in all): {HINT}"),
        ([nan, nan], None, "y has NaN at 0 (2 missing in all): give at least one"),
        (np.array([[1, 2], [3, nan]]), None, f"series 1 has NaN at 1 (1 missing in all): {HINT}"),
        (
            pd.Series([1, 2, nan, 4, 5, 6], MONTHS, name="a"), None,
            f"y has NaN at 2020-03-01 00:00:00 (1 missing in all): {HINT}",
        ),
        (
            pd.DataFrame({"a": [1.0, 2], "b": [nan, 2]}, ["2020", "2021"]).set_index(MONTHS[:2]), None,
            f"series 'b' has NaN at 2020-01-01 00:00:00 (1 missing in all): {HINT}",
        ),
        ([1, inf, 3], None, "y or its features have infinity at 1: give a number, or NaN with fill="),
        ([1, 2, 3], [1, 2, -inf], "y or its features have infinity at 2: give a number, or NaN with fill="),
        (
            np.array([[1, 2], [3, -inf]]), None,
            "series 1 or its features have infinity at 1: give a number, or NaN with fill=",
        ),
        ([1, 2, 3], [[1, 2], [3, nan], [nan, 6]], "the features of y have NaN at 1: fill them in"),
        ([1, 2, 3], np.ones((4, 2)), "X must have the shape (3, features), one row per step, got (4, 2)"),
        ([1, 2, 3], np.ones((3, 2, 2)), "X must have the shape (3, features), one row per step, got (3, 2, 2)"),
        ([[1, 2, 3], [1, 2]], np.ones(3), "X must have the shape (2, features), one row per step, got (3, 1)"),
        ([1, 2], ["a", "b"], "X must hold numbers: could not convert string to float: 'a'"),
        (5, None, SHAPES + "()"),
        (None, None, SHAPES + "()"),
        (np.ones((2, 3, 4)), None, SHAPES + "(2, 3, 4)"),
        (np.ones((5, 0)), None, SHAPES + "(5, 0)"),
        ([np.ones(3), np.ones((3, 2))], None, "y must be a list of series (steps,), got one with the shape (3, 2)"),
        ([np.ones(3), 4], None, "y must be a list of series (steps,), got one with the shape ()"),
        ("abc", None, "y must hold numbers: could not convert string to float: 'abc'"),
        (["a", "b"], None, "y must hold numbers: could not convert string to float: 'a'"),
        ([[1, 2], ["c", "d"]], None, "series 1 must hold numbers: could not convert string to float: 'c'"),
        (pd.DataFrame({"a": ["c"]}), None, "series 'a' must hold numbers: could not convert string to float: 'c'"),
        ([], None, "y has no steps: at least one is needed"),
        ([[1, 2], []], None, "series 1 has no steps: at least one is needed"),
        (pd.Series([], dtype=float, name="a"), None, "y has no steps: at least one is needed"),
        (pd.DataFrame(index=range(3)), None, "y has no columns, or two with the same name: give one for each series"),
        (
            pd.DataFrame(np.ones((3, 2)), columns=["a", "a"]), None,
            "y has no columns, or two with the same name: give one for each series",
        ),
        (pd.Series([1.0, 2], [0.5, 1.5]), None, f"y has an index of float64: {KIND}"),
        (pd.Series([1.0, 2], pd.Index(["u", "v"], dtype=object)), None, f"y has an index of object: {KIND}"),
        (pd.Series([1.0, 2], [False, True]), None, f"y has an index of bool: {KIND}"),
        (
            pd.Series([1.0, 2, 3], MONTHS[[0, 2, 1]]), None,
            f"y has an index that does not increase at 2020-02-01 00:00:00: {SORT}",
        ),
        (pd.Series([1.0, 2, 3], [4, 5, 5]), None, f"y has an index that does not increase at 5: {SORT}"),
        (
            pd.Series([1.0, 2], pd.PeriodIndex(["2020-02", "2020-01"], freq="M")), None,
            f"y has an index that does not increase at 2020-01: {SORT}",
        ),
        (
            pd.Series(values(5), MONTHS[[0, 1, 2, 4, 5]]), None,
            "y has dates without a regular frequency (see between 2020-03-01 00:00:00 and 2020-05-01 00:00:00): "
            "y.asfreq(...) or y.resample(...) makes them regular (--frequency), and fill= (--fill) fills the gaps",
        ),
        (
            pd.Series(values(4), [0, 5, 10, 20]), None,
            "y lacks steps between 10 and 20: insert them as NaN",
        ),
        (
            pd.Series(values(3), pd.PeriodIndex(["2020-01", "2020-02", "2020-04"], freq="M")), None,
            "y lacks steps between 2020-02 and 2020-04: insert them as NaN",
        ),
        (  # equally far apart, but only every third month
            pd.Series(values(3), pd.PeriodIndex(["2020-01", "2020-04", "2020-07"], freq="M")), None,
            "y lacks steps between 2020-01 and 2020-04: insert them as NaN",
        ),
        (
            long_form({"b": 4}), np.ones(4),
            "X is for arrays and wide frames: in the long form, give features as further columns of y",
        ),
        (long_without("unique_id"), None, "y has rows without unique_id or ds: leave them out"),
        (long_without("ds"), None, "y has rows without unique_id or ds: leave them out"),
        (long_form({"b": 4}).iloc[:0], None, "y has no rows: at least one series is needed"),
        (
            long_form({"b": 4, "a": 3}).assign(price="high"), None,
            "feature 'price' must hold numbers: could not convert string to float: 'high'",
        ),
        (
            long_form({"b": 4, "a": 3}).assign(y="high"), None,
            "series 'b' must hold numbers: could not convert string to float: 'high'",
        ),
        (
            long_form({"b": 4, "a": 4}, dates=False).drop(6), None,
            "series 'a' lacks steps between 12 and 16: insert them as NaN",
        ),
        (
            long_form({"b": 4, "a": 4}, dates=False).replace({"ds": {14: 12}}), None,
            f"series 'a' has an index that does not increase at 12: {SORT}",
        ),
        (
            long_form({"b": 4, "a": 4}, price=2).replace({"price": {3: nan}}), None,
            "the features of series 'a' have NaN at 2021-02-01 00:00:00: fill them in",
        ),
    ],
)  # fmt: skip
def test_invalid_series_are_refused(y, X, message):
    with refused(message):
        Panel.read(y, X)


@pytest.mark.parametrize(
    "fill",
    ["backward", "", nan, inf, -inf, np.float32(inf), 10**400, True, np.bool_(True), b"linear", ["linear"], {}, (1,),
     1j, np.complex64(1), np.array([1.0]), np.array([1.0, 2.0]), pd.NA, pd.Timestamp("2020")],
    ids=lambda fill: repr(fill)[:20],
)  # fmt: skip
def test_invalid_fill_is_refused(fill):
    for y in ([1.0, 2.0], [1.0, nan]):
        with refused(FILL + repr(fill)):
            Panel.read(y, fill=fill)


def test_infinity_and_missing_features_are_not_filled():
    with refused("y or its features have infinity at 0: give a number, or NaN with fill="):
        Panel.read([inf, nan, 1.0], fill="linear")
    with refused("the features of y have NaN at 2: fill them in"):
        Panel.read([1.0, nan, 1.0], [1.0, 2.0, nan], fill=0)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (None, "X must have the 2 features of the 3 steps to come, but there is no X: give one"),
        (np.ones((4, 2)), "X must have the shape (3, features), one row per step, got (4, 2)"),
        (np.ones((3, 1)), "X must have the shape (3, 2) and only finite numbers, got the shape (3, 1)"),
        (np.full((3, 2), nan), "X must have the shape (3, 2) and only finite numbers, got the shape (3, 2)"),
        (np.full((3, 2), inf), "X must have the shape (3, 2) and only finite numbers, got the shape (3, 2)"),
        ("abc", "X must hold numbers: could not convert string to float: 'abc'"),
        (pd.DataFrame({"price": [1.0] * 3}), "X must have the columns price, day: day is missing"),
    ],
)
def test_invalid_features_ahead_are_refused(X, message):
    panel = Panel.read(np.ones(6), pd.DataFrame({"price": np.arange(6), "day": 1}))
    with refused(message):
        panel.ahead(X, 3)


def test_features_ahead_are_refused_if_the_series_have_none():
    with refused("X must have the shape (3, 0) and only finite numbers, got the shape (3, 2)"):
        Panel.read(np.ones(6)).ahead(np.ones((3, 2)), 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X: X.to_numpy(), "X must be a DataFrame with the columns unique_id, ds and the features, like y"),
        (lambda X: X.drop(columns="ds"), LONG + "ds is missing"),
        (lambda X: X.drop(columns="day"), LONG + "day is missing"),
        (
            lambda X: X.drop(index=10),
            "X must have one row for each step to come of 'a', but not for 2021-05-01 00:00:00",
        ),
        (
            lambda X: pd.concat([X, X.iloc[:1]]),
            "X must have one row for each step to come of 'b', but not for 2020-05-01 00:00:00",
        ),
        (  # two of May and none of June, in any order
            lambda X: X.assign(ds=X["ds"].where(X["ds"] != "2020-06-01", pd.Timestamp("2020-05-01")))[::-1],
            "X must have one row for each step to come of 'b', but not for 2020-05-01 00:00:00",
        ),
        (  # none of June and two of July
            lambda X: X.assign(ds=X["ds"].where(X["ds"] != "2020-06-01", pd.Timestamp("2020-07-01"))),
            "X must have one row for each step to come of 'b', but not for 2020-06-01 00:00:00",
        ),
        (
            lambda X: X[X["unique_id"] == "b"],
            "X must have one row for each step to come of 'a', but not for 2021-04-01 00:00:00",
        ),
        (
            lambda X: X.assign(price=[1, 2, 3, 4, nan, 6]),
            "X has NaN or infinity among the features of 'a': fill them in",
        ),
        (
            lambda X: X.assign(price=[1, 2, 3, 4, 5, inf]),
            "X has NaN or infinity among the features of 'a': fill them in",
        ),
        (lambda X: X.assign(day="x"), "X must hold numbers: could not convert string to float: 'x'"),
    ],
)
def test_invalid_features_ahead_in_the_long_form_are_refused(change, message):
    panel = Panel.read(long_form({"b": 4, "a": 3}, price=2, day=-3))
    after = long_form({"b": 7, "a": 6}, price=2, day=-3).drop(index=[0, 1, 2, 3, 7, 8, 9], columns="y")
    after.index = range(6, 12)
    after = after.astype({"price": float})
    assert len(panel.ahead(after, 3)) == 2
    with refused(message):
        panel.ahead(change(after), 3)


def test_one_or_two_dates_have_the_frequency_of_the_other_series():
    months = pd.date_range("2020-01-31", periods=5, freq="ME")
    rows = [("a", day) for day in months] + [("b", months[1])] + [("c", day) for day in months[:2]]
    panel = Panel.read(pd.DataFrame(rows, columns=["unique_id", "ds"]).assign(y=1.0))
    assert [series.future(1)[0] for series in panel.series] == [
        pd.Timestamp("2020-06-30"), pd.Timestamp("2020-03-31"), pd.Timestamp("2020-03-31")
    ]  # fmt: skip
    again = Panel.from_state(*panel.to_state())
    assert again.series[1].future(2).tolist() == panel.series[1].future(2).tolist()


def test_dates_of_another_frequency_are_named():
    rows = [("a", day) for day in pd.date_range("2020-01-31", periods=5, freq="ME")] + [
        ("b", pd.Timestamp("2020-01-30"))
    ]
    message = (
        r"^series 'b' has dates \(2020-01-30 00:00:00\) that do not fit those of the other series, "
        r"whose frequency is ME"
    )
    with pytest.raises(InputError, match=message):
        Panel.read(pd.DataFrame(rows, columns=["unique_id", "ds"]).assign(y=1.0))


def test_dates_without_a_frequency_are_not_continued():
    panel = Panel.read(pd.Series([1.0, 2.0], pd.to_datetime(["2020-01-01", "2021-01-01"])))
    with pytest.raises(
        InputError, match=r"^y has too few dates to tell their frequency \(2\): set it with y\.asfreq\(\.\.\.\)"
    ):
        panel.series[0].future(1)
