"""GRUForecaster: forecasts, intervals and scores as computed by hand, independent of later values, and saved."""

import base64
import errno
import inspect
import json
import math
import pickle
import re
import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from statsmodels.datasets import co2, sunspots

from headgate import GRUForecaster, GRURegressor, InputError
from headgate.estimators import forecaster
from headgate.pictures.forecast import draw_forecast
from headgate.runs import estimator_directory
from headgate.sequences.windows import Score

nan = np.nan
damaging = settings(deadline=None, max_examples=150)
N, H = 70, 3  # steps of a history, and of a forecast


def small(**changes) -> GRUForecaster:
    """Return a forecaster that fits in hundredths of a second."""
    parameters = {"horizon": H, "window": 5, "season_length": 4, "hidden_size": 6, "epochs": 2, "random_state": 0}
    return GRUForecaster(**{**parameters, **changes})


def values(n: int = N, series: int = 0) -> np.ndarray:
    """Return a series with a season of 4, a trend and noise; its units depend on its number.

    Longer ones extend shorter ones.
    """
    noise = np.random.default_rng(series).normal(size=n)
    return (10.0**series) * (np.sin(np.arange(n) * np.pi / 2 + series) + 0.05 * np.arange(n) + 0.2 * noise + 3)


def features(n: int = N, F: int = 2, series: int = 0) -> np.ndarray:
    return np.random.default_rng(50 + series).normal(size=(n, F))


def months(n: int) -> pd.DatetimeIndex:
    return pd.date_range("2015-03-01", periods=n, freq="MS")


def long_form(lengths: dict, F: int = 0) -> pd.DataFrame:
    parts = []
    for number, (name, n) in enumerate(lengths.items()):
        columns = dict(zip("pqr", features(n, F, number).T, strict=False)) if F else {}
        parts.append(pd.DataFrame({"unique_id": name, "ds": months(n), "y": values(n, number), **columns}))
    return pd.concat(parts, ignore_index=True)


# The same history in every form that a single series can have
ONE = {
    "array": values(),
    "list": values().tolist(),
    "column": values()[:, None],
    "list of one": [values()],
    "series": pd.Series(values(), months(N), name="sales"),
    "periods": pd.Series(values(), months(N).to_period("M")),
    "numbered": pd.Series(values(), pd.RangeIndex(7, 7 + 2 * N, 2)),
    "frame": pd.DataFrame({"sales": values()}, months(N)),
    "long": long_form({"sales": N}),
}
MANY = {
    "arrays": np.stack([values(N, s) for s in range(3)], 1),
    "list": [values(N, 0), values(N - 9, 1), values(N - 4, 2)],
    "frame": pd.DataFrame({"abc"[s]: values(N, s) for s in range(3)}, months(N)),
    "long": long_form({"b": N, "a": N - 9, "c": N - 4}),
}


def refused(message: str):
    return pytest.raises(InputError, match=f"^{re.escape(message)}$")


def weights(fitted: GRUForecaster) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in fitted.regressor_.model_.state_dict().items()}


def numbers(answer) -> np.ndarray:
    if isinstance(answer, pd.DataFrame):
        answer = answer.drop(columns=[c for c in ("unique_id", "ds") if c in answer.columns])
    return np.asarray(answer, float)


def assert_equal(result, expected) -> None:
    """Assert equality to the last bit, and of index and names."""
    assert type(result) is type(expected)
    if isinstance(expected, pd.DataFrame):
        pd.testing.assert_frame_equal(result, expected, check_exact=True, check_column_type=False)
    elif isinstance(expected, pd.Series):
        pd.testing.assert_series_equal(result, expected, check_exact=True)
    else:
        np.testing.assert_array_equal(result, expected)


# By hand


def standardized(X: np.ndarray, parts: list[np.ndarray]) -> np.ndarray:
    """Standardize features as the regressor receives them: by the training parts of all series together."""
    columns = []
    for feature, column in enumerate(np.asarray(X).T):
        known = [float(value) for part in parts for value in np.asarray(part)[:, feature]]
        mean = sum(known) / len(known)
        deviation = math.sqrt(sum((value - mean) ** 2 for value in known) / len(known))
        columns.append((column - mean) / deviation)
    return np.stack(columns, 1) if columns else X


def differences_by_hand(y, lags) -> list[float]:
    y = list(y)
    for lag in lags:
        y = [y[t] - y[t - lag] for t in range(lag, len(y))]
    return y


def scale_by_hand(y, lags) -> tuple[float, float]:
    z = differences_by_hand(y, lags)
    mean = sum(z) / len(z)
    return mean, math.sqrt(sum((value - mean) ** 2 for value in z) / len(z))


def window_by_hand(z: list[float], X: np.ndarray, end: int, w: int, k: int, S: int) -> list[list[float]]:
    """Return the window whose last difference is z[end - 1], where z[t] belongs to step t + S.

    Each row has a difference and the standardized features X of the k steps after it.
    """
    rows = []
    for t in range(end - w, end):
        row = [z[t]]
        for ahead in range(1, k + 1):
            row += list(X[t + S + ahead])
        rows.append(row)
    return rows


def forecast_by_hand(fitted: GRUForecaster, y, X: np.ndarray, h: int, scale: tuple[float, float]) -> list[float]:
    """Forecast h steps after the history y window by window, with standardized features X (len(y) + h, F)."""
    lags, w, S = fitted.lags_, fitted.window_, sum(fitted.lags_)
    k = fitted.horizon if fitted.strategy == "direct" else 1
    mean, deviation = scale
    X = np.concatenate([X, np.repeat(X[-1:], k, 0)])
    y, z = list(y), [(value - mean) / deviation for value in differences_by_hand(y, lags)]
    share = np.ones(1)  # coefficients of y[t], y[t-1], ... in a difference
    for lag in lags:
        share = np.convolve(share, [1.0] + [0.0] * (lag - 1) + [-1.0])
    begin = len(y)
    while len(y) < begin + h:
        rows = window_by_hand(z, X, len(z), w, k, S)
        for value in np.atleast_1d(fitted.regressor_.predict(np.array([rows]))[0]):
            z.append(float(value))
            y.append(z[-1] * deviation + mean - sum(share[j] * y[len(y) - j] for j in range(1, S + 1)))
    return y[begin : begin + h]


def score_by_hand(history, forecast, actual, season: int, half=None) -> Score:
    """Score a forecast over the observed steps; NaN is unobserved."""
    scale = np.mean([abs(history[t] - history[t - season]) for t in range(season, len(history))])
    came = [t for t in range(len(actual)) if not math.isnan(actual[t])]
    errors = [abs(forecast[t] - actual[t]) for t in came]
    naive = [abs(history[len(history) - season + t % season] - actual[t]) for t in came]
    inside = nan if half is None else np.mean([e <= half[t] for e, t in zip(errors, came, strict=True)])
    return Score(np.mean(errors), np.mean(errors) / scale, np.mean(naive) / scale, inside)


LAGS = [(), 1, 4, (1, 4), (4, 2, 1)]


def as_tuple(difference) -> tuple[int, ...]:
    return (difference,) if isinstance(difference, int) else difference


@pytest.mark.parametrize("F", [0, 2])
@pytest.mark.parametrize("strategy", ["recursive", "direct"])
@pytest.mark.parametrize("difference", LAGS)
def test_a_forecast_applies_the_regressor_to_windows(difference, strategy, F):
    y, X = values(), features(N + H, F)
    fitted = small(difference=difference, strategy=strategy, epochs=4).fit(y, X[:N] if F else None)
    assert fitted.lags_ == as_tuple(difference)
    scale = scale_by_hand(y[: N - 14], fitted.lags_)  # a fifth of 70 is held out
    for h in (1, 2, H):
        result = fitted.predict(h, X[N : N + h] if F else None)
        scaled = standardized(X[: N + h], [X[: N - 14]])
        np.testing.assert_allclose(result, forecast_by_hand(fitted, y, scaled, h, scale), rtol=1e-5)


def test_a_recursive_forecast_may_be_longer_than_the_horizon():
    y, X = values(), features(N + 8)
    fitted = small(epochs=4, difference=(1, 4)).fit(y, X[:N])
    scaled = standardized(X, [X[: N - 14]])
    expected = forecast_by_hand(fitted, y, scaled, 8, scale_by_hand(y[: N - 14], (1, 4)))
    np.testing.assert_allclose(fitted.predict(8, X[N:]), expected, rtol=1e-5)
    np.testing.assert_array_equal(fitted.predict(8, X[N:])[:H], fitted.predict(X=X[N : N + H]))


@pytest.mark.parametrize("F", [0, 2])
@pytest.mark.parametrize(("strategy", "k"), [("recursive", 1), ("direct", H)])
@pytest.mark.parametrize("difference", [(), (1, 4)])
def test_training_uses_the_windows_of_the_training_part(monkeypatch, difference, strategy, k, F):
    calls, learn = [], GRURegressor.fit

    def watched(self, X, y, sample_weight=None):
        calls.append((X, y))
        return learn(self, X, y, sample_weight)

    monkeypatch.setattr(GRURegressor, "fit", watched)
    lengths = {"b": N, "a": N - 9}
    fitted = small(difference=difference, strategy=strategy, calibration=0.3).fit(long_form(lengths, F))
    [(inputs, targets)] = calls
    expected_inputs, expected_targets, S = [], [], sum(difference)
    parts = [features(n, F, number)[: n - math.ceil(0.3 * n)] for number, n in enumerate(lengths.values())]
    for number, (name, n) in enumerate(lengths.items()):
        known = n - math.ceil(0.3 * n)
        X = standardized(features(n, F, number), parts)
        mean, deviation = scale_by_hand(values(n, number)[:known], difference)
        assert (fitted.scales_[name].mean, fitted.scales_[name].deviation) == pytest.approx((mean, deviation))
        z = [(value - mean) / deviation for value in differences_by_hand(values(n, number)[:known], difference)]
        for end in range(5, len(z) - k + 1):
            expected_inputs.append(window_by_hand(z, X, end, 5, k, S))
            expected_targets.append(z[end : end + k])
    np.testing.assert_allclose(inputs, expected_inputs, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(targets, expected_targets, rtol=1e-9, atol=1e-9)


def test_the_held_out_part_has_at_least_one_forecast():
    fitted = small(horizon=11, calibration=0.01)
    message = 'the forecasts come without intervals: y has 70 steps, 1301 would do, or calibration="auto"; a smaller'
    with pytest.warns(UserWarning, match=f"^{re.escape(message)} horizon needs fewer$"):
        fitted.fit(values())
    assert fitted.errors_.shape == (1, 11)
    mean, deviation = scale_by_hand(values()[: N - 11], fitted.lags_)
    assert (fitted.scales_[None].mean, fitted.scales_[None].deviation) == pytest.approx((mean, deviation))


@pytest.mark.parametrize("strategy", ["recursive", "direct"])
def test_each_series_has_its_own_scale_and_features(strategy):
    lengths = {"b": N, "a": N - 9, "c": N - 4}
    all_rows = long_form({name: n + H for name, n in lengths.items()}, 2)
    ahead = all_rows.groupby("unique_id").tail(H).drop(columns="y")
    known = all_rows.drop(index=ahead.index)
    fitted = small(strategy=strategy, difference=(1, 4), epochs=4).fit(known)
    result = fitted.predict(X=ahead.sample(frac=1, random_state=1))
    parts = [features(n + H, 2, s)[: n - math.ceil(0.2 * n)] for s, n in enumerate(lengths.values())]
    for name, n in lengths.items():
        rows = all_rows[all_rows["unique_id"] == name]
        y, X = rows["y"].to_numpy()[:n], rows[["p", "q"]].to_numpy()
        scale = scale_by_hand(y[: n - math.ceil(0.2 * n)], (1, 4))
        answer = result[result["unique_id"] == name]
        expected = forecast_by_hand(fitted, y, standardized(X, parts), H, scale)
        np.testing.assert_allclose(answer["y"], expected, rtol=1e-5)
        assert answer["ds"].tolist() == months(n + H)[n:].tolist()


@pytest.mark.parametrize(
    ("y", "expected"),
    [
        (np.cumsum(np.random.default_rng(0).normal(size=N)), (1,)),
        (np.random.default_rng(0).normal(size=N), ()),
        (np.ones(N), (1,)),
        (np.stack([np.arange(N), np.arange(N) ** 2, (-1.0) ** np.arange(N)], 1), (1,)),  # smaller for two of three
    ],
)
def test_auto_differences_if_that_reduces_the_deviation(y, expected):
    assert small().fit(y).lags_ == expected


@pytest.mark.parametrize("difference", [None, [], (), np.array([], int)])
def test_no_differences(difference):
    assert small(difference=difference).fit(values()).lags_ == ()


@pytest.mark.parametrize("difference", [np.int64(4), [4], np.array([4]), (np.int32(4),)])
def test_ways_to_write_a_difference(difference):
    fitted = small(difference=difference).fit(values())
    assert fitted.lags_ == (4,)
    assert type(fitted.lags_[0]) is int


def test_a_constant_series_is_continued():
    fitted = small(epochs=1).fit(np.full(N, 7.5))
    assert np.isfinite(fitted.predict()).all()
    assert fitted.scales_[None].deviation == 1.0


# Forms


@pytest.mark.parametrize("form", ONE)
def test_the_form_does_not_change_the_numbers(form):
    expected = small().fit(values())
    fitted = small().fit(ONE[form])
    assert weights(fitted) == weights(expected)
    np.testing.assert_array_equal(numbers(fitted.predict()).ravel(), expected.predict())
    np.testing.assert_array_equal(numbers(fitted.predict_interval()), expected.predict_interval())
    assert fitted.tail_score_[:3] == expected.tail_score_[:3]


def test_the_forms_of_forecasts():
    result = small().fit(ONE["series"]).predict()
    assert isinstance(result, pd.Series)
    assert result.name == "sales"
    assert result.index.tolist() == months(N + H)[N:].tolist()
    result = small().fit(MANY["frame"]).predict()
    assert result.columns.tolist() == ["a", "b", "c"]
    assert result.index.tolist() == months(N + H)[N:].tolist()
    assert small().fit(MANY["arrays"]).predict().shape == (H, 3)
    result = small().fit(MANY["long"]).predict()
    assert result.columns.tolist() == ["unique_id", "ds", "y"]
    assert result["unique_id"].tolist() == ["b"] * H + ["a"] * H + ["c"] * H


def test_the_forms_of_intervals():
    columns = ["lower", "forecast", "upper"]
    result = small().fit(values()).predict_interval()
    assert (result.columns.tolist(), result.index.tolist()) == (columns, [70, 71, 72])
    for form in ("arrays", "list"):  # these may end at different steps
        result = small().fit(MANY[form]).predict_interval()
        assert result.columns.tolist() == [(name, column) for name in range(3) for column in columns]
        assert (result.index.tolist(), result.index.name) == ([1, 2, 3], "step")
        assert not result.isna().any(axis=None)
    result = small().fit(ONE["series"]).predict_interval()
    assert (result.columns.tolist(), result.index.tolist()) == (columns, months(N + H)[N:].tolist())
    result = small().fit(MANY["frame"]).predict_interval()
    assert result.columns.tolist() == [(name, column) for name in "abc" for column in columns]
    result = small().fit(MANY["long"]).predict_interval()
    assert result.columns.tolist() == ["unique_id", "ds", *columns]
    assert len(result) == 3 * H


@pytest.mark.parametrize("strategy", ["recursive", "direct"])
def test_a_series_does_not_depend_on_the_order_of_the_others(strategy):
    fitted = small(strategy=strategy).fit(MANY["frame"])
    expected, interval = fitted.predict(), fitted.predict_interval()
    for order in (["c", "a", "b"], ["b"], ["c", "b"]):
        assert_equal(fitted.predict(y=MANY["frame"][order]), expected[order])
        assert_equal(fitted.predict_interval(y=MANY["frame"][order]), interval[order])


# Another history


def test_another_history():
    fitted = small(difference=(1, 4), epochs=4).fit(values())
    np.testing.assert_array_equal(fitted.predict(y=values()), fitted.predict())
    other = values(31, 1)
    expected = forecast_by_hand(fitted, other, np.empty((31 + H, 0)), H, scale_by_hand(values()[: N - 14], (1, 4)))
    np.testing.assert_allclose(fitted.predict(y=other), expected, rtol=1e-5)


def test_a_history_with_a_new_name_is_standardized_by_itself():
    fitted = small(difference=1, epochs=4).fit(MANY["frame"])
    other = values(31, 4)
    result = fitted.predict(y=pd.DataFrame({"b": values(31, 1), "new": other}, months(31)))
    expected = forecast_by_hand(fitted, other, np.empty((31 + H, 0)), H, scale_by_hand(other, (1,)))
    np.testing.assert_allclose(result["new"], expected, rtol=1e-5)
    known = scale_by_hand(values(N, 1)[: N - 14], (1,))
    expected = forecast_by_hand(fitted, values(31, 1), np.empty((31 + H, 0)), H, known)
    np.testing.assert_allclose(result["b"], expected, rtol=1e-5)
    half = fitted.predict_interval(y=pd.Series(other, name="new"))["upper"] - result["new"].to_numpy()
    np.testing.assert_allclose(half, fitted.errors_[math.ceil((len(fitted.errors_) + 1) * 0.8) - 1]
                               * scale_by_hand(other, (1,))[1], rtol=1e-5)  # fmt: skip


def test_another_history_with_features():
    X = features(N + H)
    fitted = small(epochs=4, difference=1).fit(values(), X[:N])
    scaled = standardized(X[5 : 36 + H], [X[: N - 14]])
    expected = forecast_by_hand(fitted, values(31), scaled, H, scale_by_hand(values()[: N - 14], (1,)))
    np.testing.assert_allclose(fitted.predict(y=values(31), past_X=X[5:36], X=X[36 : 36 + H]), expected, rtol=1e-5)


def test_named_features_are_put_in_the_order_of_fit():
    X = pd.DataFrame(features(N + H), columns=["p", "q"])
    fitted = small().fit(values(), X[:N])
    result = fitted.predict(X=X[N:])
    assert_equal(fitted.predict(X=X[N:][["q", "p"]]), result)
    assert_equal(fitted.predict(y=values(), past_X=X[:N], X=X[N:][["q", "p"]]), result)
    with refused("the features of y are 'q', 'p', the model was fitted with 'p', 'q': put them in that order"):
        fitted.predict(y=values(), past_X=X[:N][["q", "p"]], X=X[N:])


def test_gaps_of_another_history_are_filled():
    fitted = small(fill="linear").fit(values())
    gap, whole = values(31), values(31)
    gap[20], whole[20] = nan, (whole[19] + whole[21]) / 2
    np.testing.assert_allclose(fitted.predict(y=gap), fitted.predict(y=whole), rtol=1e-9)


def assert_other_histories(fitted: GRUForecaster, name, scale) -> None:
    """Assert that this scale standardizes a history of this name, and that intervals are in its standard deviations."""
    other = values(31, 1)
    y = other if name is None else pd.Series(other, name=name)
    expected = forecast_by_hand(fitted, other, np.empty((31 + H, 0)), H, scale)
    np.testing.assert_allclose(fitted.predict(y=y), expected, rtol=1e-5)
    interval = fitted.predict_interval(y=y)
    half = fitted.errors_[math.ceil((len(fitted.errors_) + 1) * 0.8) - 1] * scale[1]
    np.testing.assert_allclose(interval["upper"] - interval["forecast"], half, rtol=1e-6)


def test_an_unnamed_series_has_the_scale_of_fit():
    known, own = scale_by_hand(values()[: N - 14], (1,)), scale_by_hand(values(31, 1), (1,))
    named, bare = (small(difference=1).fit(ONE[form]) for form in ("series", "array"))
    assert_other_histories(named, None, known)
    assert_other_histories(named, "sales", known)
    assert_other_histories(named, "costs", own)
    assert_other_histories(bare, None, known)
    assert_other_histories(bare, "costs", known)
    many = small(difference=1).fit(MANY["frame"])
    assert_other_histories(many, None, own)  # it could be any of them


def test_unnamed_features_are_in_the_order_of_fit():
    X = pd.DataFrame(features(N + H), columns=["p", "q"])
    fitted = small().fit(values(), X[:N])
    expected = fitted.predict(X=X[N:])
    for ahead in (X[N:], X[N:][["q", "p"]], X[N:].to_numpy()):
        assert_equal(fitted.predict(y=values(), past_X=X[:N].to_numpy(), X=ahead), expected)


def test_all_methods_take_features_of_another_history():
    X, other = features(N + H), values(31, 1)
    fitted = small().fit(values(), X[:N])
    past_X, ahead = X[4:35], X[35 : 35 + H]
    result = fitted.predict(X=ahead, y=other, past_X=past_X)
    interval = fitted.predict_interval(X=ahead, y=other, past_X=past_X)
    np.testing.assert_array_equal(interval["forecast"], result)
    [axes] = fitted.plot(X=ahead, y=other, past_X=past_X).axes
    np.testing.assert_array_equal(line(axes, "forecast").get_ydata()[1:], result)
    assert (result != fitted.predict(X=ahead, y=other, past_X=past_X + 1)).all()
    for use in (fitted.predict, fitted.predict_interval, fitted.plot):
        with refused("past_X goes with y: give both, or neither to continue the series of fit"):
            use(X=ahead, past_X=past_X)
        with refused("X must have the shape (31, features), one row per step, got (30, 2)"):
            use(X=ahead, y=other, past_X=past_X[1:])
        with refused(
            "y has 0 features, the model was fitted with 2: give them as past_X, or as columns of the long form"
        ):
            use(X=ahead, y=other)


def test_features_with_another_index_are_refused():
    y, X = ONE["series"], pd.DataFrame(features(N + H), months(N + H), ["p", "q"])
    past = "X must have the index of y: X.reindex(y.index) aligns its rows"
    shifted = X[:N].set_axis(months(N + 1)[1:])
    for wrong in (X[:N].reset_index(drop=True), X[:N][::-1], shifted):
        for use in (small().fit, lambda y, X: small().backtest(2, y, X)):
            with refused(past):
                use(y, wrong)
    fitted = small().fit(y, X[:N])
    ahead = "X must have the index of the steps to come, 2021-01-01 00:00:00 to 2021-03-01 00:00:00"
    for wrong in (X[N:].reset_index(drop=True), X[N - 1 : -1], X[N:][::-1]):
        for use in (fitted.predict, fitted.predict_interval, fitted.plot):
            with refused(ahead):
                use(X=wrong)
        with refused(ahead):
            fitted.score(pd.Series(values(N + H)[N:], months(N + H)[N:]), wrong)
    with refused(past):
        fitted.predict(y=y[:31], past_X=X[1:32], X=X[31 : 31 + H])
    with refused("X must have the index of the steps to come, 2017-10-01 00:00:00 to 2017-12-01 00:00:00"):
        fitted.predict(y=y[:31], past_X=X[:31], X=X[N:])
    expected = fitted.predict(y=y[:31], past_X=X[:31].to_numpy(), X=X[31 : 31 + H])
    assert_equal(fitted.predict(y=y[:31], past_X=X[:31], X=X[31 : 31 + H]), expected)


# Gaps


GAPS = [20, 55, 57, 60, 66]  # one in the middle, one at the end of the training part, the others held out


def with_gaps(gaps, n: int = N, series: int = 0) -> np.ndarray:
    y = values(n, series)
    y[list(gaps)] = nan
    return y


def filled(y: np.ndarray, fill) -> np.ndarray:
    y = pd.Series(y)
    if fill == "linear":
        return y.interpolate("linear").to_numpy()
    return (y.ffill() if fill == "forward" else y.fillna(fill)).to_numpy()


def watch_scores(monkeypatch) -> list[tuple]:
    """Record the history, the forecast and the actual values of each score computed from now on."""
    result, score = [], forecaster.score_forecast

    def watched(history, forecast, actual, *rest):
        result.append((history.copy(), forecast.copy(), actual.copy()))
        return score(history, forecast, actual, *rest)

    monkeypatch.setattr(forecaster, "score_forecast", watched)
    return result


@pytest.mark.parametrize("difference", ["auto", (), (1, 4)])
@pytest.mark.parametrize("fill", ["linear", "forward", 2.5])
def test_the_training_part_is_filled_from_itself_only(fill, difference):
    y = with_gaps([20, 54, 55])  # the training part has 56 steps
    other = y.copy()
    other[56:] = 1e3
    one, two = (small(fill=fill, difference=difference).fit(series) for series in (y, other))
    assert weights(one) == weights(two)
    assert one.scales_ == two.scales_
    scale = scale_by_hand(filled(y[:56], fill), one.lags_)
    assert (one.scales_[None].mean, one.scales_[None].deviation) == pytest.approx(scale)


@pytest.mark.parametrize("fill", ["linear", "forward", 2.5])
def test_the_history_of_a_fold_is_filled_from_itself_only(monkeypatch, fill):
    y = np.sin(np.arange(90.0))
    y[86] = nan  # the last step before the fold
    other = y.copy()
    other[87:] += 50
    seen_by_score = watch_scores(monkeypatch)
    rows, scores = [], []
    for series in (y, other):
        seen_by_score.clear()
        rows.append(small(fill=fill).backtest(1, series).iloc[0])
        scores.append(seen_by_score[-1])
    for row, (history, forecast, actual), series in zip(rows, scores, (y, other), strict=True):
        np.testing.assert_array_equal(history, filled(y[:87], fill))
        np.testing.assert_array_equal(forecast, scores[0][1])
        np.testing.assert_array_equal(actual, series[87:])
        assert row["origin"] == 86
        assert tuple(row[["mae", "mase", "seasonal_naive"]]) == pytest.approx(
            score_by_hand(filled(y[:87], fill), scores[0][1], series[87:], 4)[:3]
        )
    assert rows[1]["mae"] > rows[0]["mae"] + 40


@pytest.mark.parametrize("fill", ["linear", "forward", 2.5])
def test_calibration_fills_from_values_before_each_origin_only(monkeypatch, fill):
    y = with_gaps(GAPS)
    other = y.copy()
    other[61:] += 50  # after a gap
    seen_by_score = watch_scores(monkeypatch)
    scores = []
    for series in (y, other):
        seen_by_score.clear()
        fitted = small(fill=fill).fit(series)
        scores.append(list(seen_by_score))
    assert len(scores[0]) == len(scores[1]) == 14 - H + 1
    for origin, (one, two) in enumerate(zip(*scores, strict=True), N - 14):
        for series, (history, forecast, actual) in ((y, one), (other, two)):
            np.testing.assert_array_equal(history, filled(series[:origin], fill))
            np.testing.assert_array_equal(actual, series[origin : origin + H])
            np.testing.assert_array_equal(np.isnan(actual), [t in GAPS for t in range(origin, origin + H)])
            if series is other:
                np.testing.assert_allclose(forecast, fitted.predict(y=series[:origin]), rtol=1e-5)
        if origin <= 61:
            np.testing.assert_array_equal(one[1], two[1])


@pytest.mark.parametrize("strategy", ["recursive", "direct"])
@pytest.mark.parametrize("fill", ["linear", "forward", 2.5])
def test_filled_values_are_not_scored_in_the_held_out_part(fill, strategy):
    y = with_gaps(GAPS)
    fitted = small(fill=fill, strategy=strategy, difference=1).fit(y)
    scale = scale_by_hand(filled(y[:56], fill), (1,))
    errors, scores = [], []
    for origin in range(56, N - H + 1):
        history = filled(y[:origin], fill)
        result = forecast_by_hand(fitted, history, np.empty((origin + H, 0)), H, scale)
        errors.append([abs(result[step] - y[origin + step]) / scale[1] for step in range(H)])
        scores.append(score_by_hand(history, result, y[origin : origin + H], 4))
    expected = [sorted(e[step] for e in errors if not math.isnan(e[step])) for step in range(H)]
    assert [len(column) for column in expected] == [9, 9, 10]
    assert fitted.errors_.shape == (12, H)
    for step, column in enumerate(expected):
        np.testing.assert_allclose(fitted.errors_[: len(column), step], column, rtol=1e-4, atol=1e-6)
        assert np.isnan(fitted.errors_[len(column) :, step]).all()
    assert fitted.tail_score_[:3] == pytest.approx(tuple(np.mean(scores, 0)[:3]), rel=1e-5)


def test_quantiles_use_the_observed_errors_only():
    """By hand: 9, 10 and 11 of 12 forecasts have an observed value to compare with."""
    fitted = small(fill="linear").fit(with_gaps([56, 57, 66]))
    deviation = fitted.scales_[None].deviation
    assert (~np.isnan(fitted.errors_)).sum(0).tolist() == [9, 10, 11]
    fitted.errors_ = np.stack([
        [*range(1, 10), nan, nan, nan], [*range(101, 111), nan, nan], [*range(201, 212), nan],
    ], 1).astype(float)  # fmt: skip
    for coverage, expected in {0.5: [5, 106, 206], 0.8: [8, 109, 210], 0.89: [9, 110, 211], 0.1: [1, 102, 202]}.items():
        result = fitted.predict_interval(coverage=coverage)
        np.testing.assert_allclose(result["upper"] - result["forecast"], np.multiply(expected, deviation), rtol=1e-9)
        np.testing.assert_allclose(result["forecast"] - result["lower"], np.multiply(expected, deviation), rtol=1e-9)
        shorter = fitted.predict_interval(2, coverage=coverage)
        assert_equal(shorter, result[:2])
    with refused(
        "an interval of coverage 0.905 needs 10 forecasts of the held-out part, but there are 9: too few of the steps "
        "held out were observed: a longer series with fewer gaps would do"
    ):
        fitted.predict_interval(coverage=0.905)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_no_score_and_no_intervals_if_nothing_was_observed():
    with pytest.warns(
        UserWarning, match="^the forecasts come without intervals: too few of the steps held out were obs"
    ):
        fitted = small(fill="forward").fit(with_gaps(range(56, N)))
    assert np.isnan(fitted.errors_).all()
    assert all(math.isnan(number) for number in fitted.tail_score_)
    assert np.isfinite(fitted.predict()).all()
    with pytest.raises(InputError, match=r"^an interval of coverage 0\.8 needs 4 forecasts .* there are 0:"):
        fitted.predict_interval()


@pytest.mark.parametrize("fill", ["linear", 2.5])
def test_filled_values_are_not_scored_in_a_backtest(fill):
    frame = pd.DataFrame({"a": with_gaps([20, 62, 65, 66, 68]), "b": with_gaps([30, 64, 65, 66], series=1)}, months(N))
    base = small(fill=fill)
    result = base.backtest(2, frame, coverage=0.6)
    for fold, end in enumerate((N - 2 * H, N - H)):
        fitted = clone(base).fit(frame[:end])
        interval = fitted.predict_interval(coverage=0.6)
        for name in "ab":
            [row] = result[(result["fold"] == fold) & (result["series"] == name)].itertuples(index=False)
            came = frame[name].to_numpy()[end : end + H]
            half = (interval[name]["upper"] - interval[name]["forecast"]).to_numpy()
            assert row.origin == months(N)[end - 1]
            if np.isnan(came).all():
                assert all(math.isnan(number) for number in row[3:])
                assert (fold, name) == (0, "b")
                continue
            history = filled(frame[name].to_numpy()[:end], fill)
            expected = score_by_hand(history, interval[name]["forecast"].to_numpy(), came, 4, half)
            assert row[3:] == pytest.approx(expected)


@pytest.mark.parametrize("fill", ["linear", "forward", 2.5])
@pytest.mark.parametrize("gaps", [[0], [1], [0, 2]])
def test_unobserved_steps_are_not_scored(gaps, fill):
    fitted = small(fill=fill).fit(ONE["series"])
    after = pd.Series(values(N + H)[N:], months(N + H)[N:])
    after.iloc[gaps] = nan
    forecast, upper = fitted.predict_interval()[["forecast", "upper"]].to_numpy().T
    expected = score_by_hand(values(), forecast, after.to_numpy(), 4, upper - forecast)
    assert fitted.score(after) == pytest.approx(expected)
    [axes] = fitted.plot(actual=after).axes
    came = line(axes, "actual")
    assert list(came.get_xdata()) == list(months(N + H)[N:].to_pydatetime())
    np.testing.assert_array_equal(came.get_ydata(), after)
    unfilled = small().fit(ONE["series"])
    for use in (unfilled.score, lambda actual: unfilled.plot(actual=actual)):
        with pytest.raises(InputError, match=r'"forward" \(--fill\) fills them in$'):
            use(after)


@pytest.mark.parametrize("fill", ["linear", "forward", 2.5])
def test_gaps_survive_saving(tmp_path, fill):
    frame = pd.DataFrame({"a": with_gaps(GAPS), "b": with_gaps([0, 1, 69], series=1), "c": values(N, 2)}, months(N))
    fitted = small(fill=fill).fit(frame)
    fitted.save(tmp_path / "a")
    result = GRUForecaster.load(tmp_path / "a")
    np.testing.assert_array_equal(result.errors_, fitted.errors_)
    assert np.isnan(result.errors_).any()
    assert_equal(result.predict_interval(), fitted.predict_interval())
    assert_equal(result.backtest(1), fitted.backtest(1))
    assert_equal(result.backtest(1), clone(fitted).backtest(1, frame))
    for mine, theirs in zip(result.panel_.series, fitted.panel_.series, strict=True):
        np.testing.assert_array_equal(mine.seen, theirs.seen)


# Later values have no influence


@pytest.mark.parametrize("difference", ["auto", (), (1, 4)])
def test_the_held_out_part_does_not_affect_training(difference):
    y, X = np.stack([values(), values(N, 1)], 1), features()
    other, other_X = y.copy(), X.copy()
    other[N - 14 :] = 1000.0 * np.arange(28).reshape(14, 2) ** 2 * (-1) ** np.arange(14)[:, None]
    other_X[N - 14 :] = 50 + 9 * other_X[N - 14 :]
    fitted, again = (small(difference=difference).fit(*both) for both in ((y, X), (other, other_X)))
    assert weights(again) == weights(fitted)
    assert again.scales_ == fitted.scales_
    np.testing.assert_array_equal(again.features_scale_.mean, fitted.features_scale_.mean)
    np.testing.assert_array_equal(again.features_scale_.deviation, fitted.features_scale_.deviation)
    assert again.lags_ == fitted.lags_
    assert not (again.errors_ == fitted.errors_).any()
    other = y.copy()
    other[N - 15] += 1
    again = small(difference=difference).fit(other, X)
    assert weights(again) != weights(fitted)
    assert again.scales_ != fitted.scales_


def test_the_held_out_part_does_not_affect_auto_differences():
    y = np.random.default_rng(0).normal(size=N)
    y[N - 14 :] = 100 * np.arange(14)
    assert small().fit(y).lags_ == ()


def test_a_backtest_forecast_uses_the_past_only(monkeypatch):
    """A backtest forecasts at an origin what a fit to the steps before it forecasts, whatever comes later."""
    seen_by_score, score = [], forecaster.score_forecast

    def watched(history, forecast, *rest):
        seen_by_score.append((history.copy(), forecast.copy()))
        return score(history, forecast, *rest)

    y, X = values(), features()
    expected = small().fit(y[: N - H], X[: N - H]).predict(X=X[N - H :])
    monkeypatch.setattr(forecaster, "score_forecast", watched)
    result = []
    for after in (y[N - H :], np.full(H, 1e6)):
        seen_by_score.clear()
        small().backtest(1, np.concatenate([y[: N - H], after]), X)
        history, forecast = seen_by_score[-1]
        np.testing.assert_array_equal(history, y[: N - H])
        np.testing.assert_array_equal(forecast, expected)
        result.append(list(seen_by_score))
    assert len(result[0]) == math.ceil(0.2 * (N - H)) - H + 1 + 1
    for one, other in zip(*result, strict=True):
        for mine, theirs in zip(one, other, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_folds_do_not_see_later_folds():
    y = values()
    other = y.copy()
    other[N - H :] += 100
    one, two = (small().backtest(3, series) for series in (y, other))
    pd.testing.assert_frame_equal(one[:2], two[:2], check_exact=True)
    assert two["mae"][2] > one["mae"][2] + 50


@pytest.mark.parametrize("strategy", ["recursive", "direct"])
def test_features_later_than_a_step_do_not_change_its_forecast(strategy):
    y, X = values(), features(N + H)
    fitted = small(epochs=4).fit(y, X[:N])
    other = X.copy()
    other[N + 1 :] += 5
    one, two = fitted.predict(X=X[N:]), fitted.predict(X=other[N:])
    assert one[0] == two[0]
    assert (one[1:] != two[1:]).all()


# Features


def test_features_are_used():
    X = np.random.default_rng(1).normal(size=(240, 1))
    y = 2 * X[:, 0] + 0.1 * np.random.default_rng(2).normal(size=240)
    settings = {"hidden_size": 8, "epochs": 25, "season_length": 1, "difference": (), "horizon": 6}
    known = small(**settings).fit(y[:234], X[:234]).score(y[234:], X[234:])
    unknown = small(**settings).fit(y[:234]).score(y[234:])
    assert known.mase < 0.25 * unknown.mase
    assert known.seasonal_naive == unknown.seasonal_naive


@pytest.mark.parametrize(("strategy", "difference"), [("recursive", ()), ("direct", (1, 4))])
def test_the_units_of_features_do_not_matter(tmp_path, strategy, difference):
    y, X = values(), features(N + H)
    base = small(strategy=strategy, difference=difference, epochs=4)
    fitted = base.fit(y, X[:N])
    expected, interval = fitted.predict(X=X[N:]), fitted.predict_interval(X=X[N:])
    for other in (1000 * X, X + 300, X * [1e-6, 1e6] + [1e-3, 1e7]):
        again = clone(base).fit(y, other[:N])
        result, intervals = again.predict(X=other[N:]), again.predict_interval(X=other[N:])
        np.testing.assert_allclose(result, expected, rtol=1e-4)
        np.testing.assert_allclose(intervals, interval, rtol=1e-3)
        again.save(tmp_path / "a", overwrite=True)
        loaded = GRUForecaster.load(tmp_path / "a")
        np.testing.assert_array_equal(loaded.predict(X=other[N:]), result)
        np.testing.assert_array_equal(loaded.features_scale_.mean, again.features_scale_.mean)
        np.testing.assert_array_equal(loaded.features_scale_.deviation, again.features_scale_.deviation)


def test_features_are_standardized_over_all_series_together():
    """By hand: the training parts are 8 steps of a and 4 of b; p is 1 ... 8 and 11 ... 14, q is always 5."""
    lengths = {"a": 11, "b": 7}
    rows = long_form(lengths).assign(p=[*range(1, 12), *range(11, 18)], q=5.0)
    rows.loc[rows.groupby("unique_id").tail(3).index, ["p", "q"]] = 1e5
    fitted = small(window=1, season_length=1, difference=(), epochs=1, calibration=0.2)
    with pytest.warns(UserWarning, match="^the forecasts come without intervals: "):
        fitted.fit(rows)
    known = [1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 14]
    assert fitted.features_scale_.mean.tolist() == pytest.approx([86 / 12, 5])
    deviation = math.sqrt(sum((p - 86 / 12) ** 2 for p in known) / 12)
    assert fitted.features_scale_.deviation.tolist() == pytest.approx([deviation, 1])  # q is constant


def test_no_features_have_an_empty_scale():
    scale = small().fit(values()).features_scale_
    assert (scale.mean.shape, scale.deviation.shape) == ((0,), (0,))


# Intervals


def rolling_errors(fitted: GRUForecaster, frame: pd.DataFrame, tails: dict, X=None) -> np.ndarray:
    """Return the absolute errors over the tails, origin by origin, in standard deviations of the training part."""
    errors = []
    for name, tail in tails.items():
        y = frame[name].to_numpy()
        deviation = scale_by_hand(y[: len(y) - tail], fitted.lags_)[1]
        for origin in range(len(y) - tail, len(y) - H + 1):
            history = frame[[name]][:origin]
            if X is None:
                result = fitted.predict(y=history)
            else:
                result = fitted.predict(y=history, past_X=X[:origin], X=X[origin : origin + H])
            errors.append(np.abs(result[name].to_numpy() - y[origin : origin + H]) / deviation)
    return np.array(errors)


@pytest.mark.parametrize("coverage", [0.5, 0.77, 0.8, 0.93])
@pytest.mark.parametrize("strategy", ["recursive", "direct"])
@pytest.mark.parametrize("F", [0, 2])
def test_an_interval_is_a_quantile_of_past_errors(F, strategy, coverage):
    frame, X = MANY["frame"], features(N + H) if F else None
    fitted = small(strategy=strategy, difference=1).fit(frame, X[:N] if F else None)
    errors = rolling_errors(fitted, frame, dict.fromkeys("abc", 14), X)
    n = len(errors)
    assert n == 3 * (14 - H + 1)
    result = fitted.predict_interval(X=X[N:] if F else None, coverage=coverage)
    for step in range(H):
        # the smallest error that at least `coverage` of the n + 1 errors, with the next one, do not exceed
        ordered = sorted(errors[:, step])
        [quantile] = [e for rank, e in enumerate(ordered, 1) if rank >= (n + 1) * coverage > rank - 1]
        for name in "abc":
            deviation = scale_by_hand(frame[name][: N - 14], (1,))[1]
            row = result[name].iloc[step]
            assert row["upper"] - row["forecast"] == pytest.approx(quantile * deviation, rel=1e-6)
            assert row["forecast"] - row["lower"] == pytest.approx(quantile * deviation, rel=1e-6)


def test_a_larger_coverage_gives_a_wider_interval():
    fitted = small().fit(values())
    widths = []
    for coverage in (0.1, 0.3, 0.5, 0.7, 0.9):
        result = fitted.predict_interval(coverage=coverage)
        widths.append(result["upper"] - result["lower"])
        np.testing.assert_array_equal(result["forecast"], fitted.predict())
    assert (np.diff(widths, axis=0) > 0).all()


def test_shorter_intervals_are_a_prefix_of_longer_ones():
    fitted = small().fit(values())
    assert_equal(fitted.predict_interval(1), fitted.predict_interval()[:1])


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9])
def test_intervals_have_the_stated_coverage(coverage):
    random, y = np.random.default_rng(4), [0.0]
    for _ in range(900):
        y.append(0.6 * y[-1] + random.normal())
    y = np.array(y)
    fitted = small(calibration=0.5, season_length=1, difference=(), epochs=4).fit(y[:500])
    inside = []
    for origin in range(500, 900 - H):
        result = fitted.predict_interval(y=y[:origin], coverage=coverage)
        came = y[origin : origin + H]
        inside.append((result["lower"] <= came) & (came <= result["upper"]))
    assert np.mean(inside) == pytest.approx(coverage, abs=0.06)


# Scores


@pytest.mark.parametrize("form", ONE)
def test_a_score_by_hand(form):
    fitted = small().fit(ONE[form])
    after = values(N + H)[N:]
    came = {
        "column": after[:, None],
        "list of one": [after],
        "series": pd.Series(after, months(N + H)[N:], name="whatever"),
        "periods": pd.Series(after, months(N + H)[N:].to_period("M")),
        "numbered": pd.Series(after, pd.RangeIndex(7 + 2 * N, 7 + 2 * (N + H), 2)),
        "frame": pd.DataFrame({"sales": after}, months(N + H)[N:]),
        "long": long_form({"sales": N + H})[N:],
    }.get(form, after)
    result = fitted.score(came, coverage=0.7)
    _, forecast, upper = numbers(fitted.predict_interval(coverage=0.7)).T
    half = upper - forecast
    assert result == pytest.approx(score_by_hand(values(), forecast, after, 4, half))
    if form == "array":
        assert fitted.score(after[:2])[:3] == pytest.approx(score_by_hand(values(), forecast[:2], after[:2], 4)[:3])


def test_the_score_of_many_series_is_their_mean():
    names, X = ["c", "a", "b"], features(N + H)
    fitted = small().fit(MANY["frame"], X[:N])
    came = pd.DataFrame({name: values(N + H, "abc".index(name))[N:] for name in names}, months(N + H)[N:])
    interval = fitted.predict_interval(X=X[N:])
    expected = []
    for name in names:
        half = (interval[name]["upper"] - interval[name]["forecast"]).to_numpy()
        forecast = interval[name]["forecast"].to_numpy()
        expected.append(score_by_hand(MANY["frame"][name].to_numpy(), forecast, came[name].to_numpy(), 4, half))
    assert fitted.score(came, X[N:]) == pytest.approx(tuple(np.mean(expected, 0)))


def test_a_score_in_the_long_form_with_features():
    rows = long_form({"b": N + H, "a": N - 9 + H}, 2)
    after = rows.groupby("unique_id").tail(H)
    fitted = small().fit(rows.drop(index=after.index))
    forecast = fitted.predict(X=after)
    expected = []
    for name in "ba":
        history = rows[rows["unique_id"] == name]["y"].to_numpy()[:-H]
        result, came = (frame[frame["unique_id"] == name]["y"].to_numpy() for frame in (forecast, after))
        expected.append(score_by_hand(history, result, came, 4)[:3])
    assert fitted.score(after, after)[:3] == pytest.approx(tuple(np.mean(expected, 0)))


def test_without_calibration_there_is_no_coverage():
    fitted = small(calibration=0).fit(values())
    result = fitted.score(values(N + 8)[N:])  # may be longer than the horizon
    assert math.isnan(result.coverage)
    forecast = fitted.predict(8)
    assert result[:3] == pytest.approx(score_by_hand(values(), forecast, values(N + 8)[N:], 4)[:3])
    assert fitted.tail_score_ is None
    mean, deviation = scale_by_hand(values(), fitted.lags_)  # the training part is all of it
    assert (fitted.scales_[None].mean, fitted.scales_[None].deviation) == pytest.approx((mean, deviation))
    assert math.isnan(small(calibration=0).backtest(1, values())["coverage"][0])


def test_the_score_of_the_held_out_part():
    fitted, y, expected = small().fit(MANY["list"]), MANY["list"], []
    for name, series in enumerate(y):
        tail = math.ceil(0.2 * len(series))
        scale = scale_by_hand(series[: len(series) - tail], fitted.lags_)
        for origin in range(len(series) - tail, len(series) - H + 1):
            result = forecast_by_hand(fitted, series[:origin], np.empty((origin + H, 0)), H, scale)
            expected.append(score_by_hand(series[:origin], result, series[origin : origin + H], 4))
        assert fitted.scales_[name].mean == pytest.approx(scale[0])
    assert fitted.tail_score_[:3] == pytest.approx(tuple(np.mean(expected, 0)[:3]), rel=1e-5)
    assert len(fitted.errors_) == len(expected)


@pytest.mark.parametrize(
    ("y", "expected"),
    [
        (values(), 1),
        (pd.Series(values(), months(N)), 12),
        (pd.Series(values(), months(N).to_period("M")), 12),
        (pd.Series(values(), pd.date_range("2020-01-01", periods=N, freq="D")), 7),
        (MANY["long"], 12),
    ],
)
def test_auto_season_length_follows_the_dates(y, expected):
    fitted = small(season_length="auto").fit(y)
    assert fitted.season_length_ == expected


def test_the_auto_window_is_two_seasons_and_at_least_24_steps():
    assert small(window="auto", season_length=14).fit(values(100)).window_ == 28
    assert small(window="auto", season_length=7).fit(values()).window_ == 24


# Backtests


@pytest.mark.parametrize("F", [0, 2])
@pytest.mark.parametrize("form", ["array", "series", "frame", "long"])
def test_a_backtest_by_hand(form, F):
    names = {"array": [None], "series": ["sales"], "frame": ["a", "b"], "long": ["b", "a"]}[form]
    lengths = dict(zip(names, (N, N - 9 if form == "long" else N), strict=False))
    long = long_form(lengths, F) if form == "long" else None
    X = features(N, F) if F and form != "long" else None
    panels = {
        "array": values(),
        "series": pd.Series(values(), months(N), name="sales"),
        "frame": pd.DataFrame({name: values(N, s) for s, name in enumerate(names)}, months(N)),
        "long": long,
    }
    base = small(random_state=3)
    result = base.backtest(3, panels[form], X, horizon=2, coverage=0.6)
    columns = ["fold", "series", "origin", "mae", "mase", "seasonal_naive", "coverage"]
    assert result.columns.tolist() == columns
    assert [tuple(row) for row in result[["fold", "series"]].itertuples(index=False)] == [
        (fold, name) for fold in range(3) for name in names
    ]
    assert not [name for name in vars(base) if name.endswith("_")]
    for fold in range(3):
        ends = {name: n - (3 - fold) * 2 for name, n in lengths.items()}
        ahead = None if X is None else X[ends[names[0]] : ends[names[0]] + 2]
        if form == "long":
            step = long.groupby("unique_id").cumcount()
            end = long["unique_id"].map(ends)
            until, ahead = long[step < end], long[(step >= end) & (step < end + 2)] if F else None
        else:
            until = panels[form][: ends[names[0]]]
        fitted = clone(base).fit(until, None if X is None else X[: ends[names[0]]])
        interval = fitted.predict_interval(2, ahead, coverage=0.6)
        for s, name in enumerate(names):
            row = result[(result["fold"] == fold) & ((result["series"] == name) | (len(names) == 1))].iloc[0]
            mine = interval
            if form == "frame":
                mine = interval[name]
            elif form == "long":
                mine = interval[interval["unique_id"] == name]
            forecast, half = mine["forecast"].to_numpy(), (mine["upper"] - mine["forecast"]).to_numpy()
            y, end = values(lengths[name], s), ends[name]
            expected = score_by_hand(y[:end], forecast, y[end : end + 2], 4, half)
            assert tuple(row[columns[3:]]) == pytest.approx(expected)
            assert row["origin"] == (end - 1 if form == "array" else months(N)[end - 1])


def test_a_backtest_uses_the_fitted_series_by_default():
    X = features()
    fitted = small().fit(ONE["series"], X)
    before = weights(fitted)
    assert_equal(fitted.backtest(2), small().backtest(2, ONE["series"], X))
    assert weights(fitted) == before
    assert fitted.panel_.series[0].values.tolist() == values().tolist()
    assert fitted.backtest(1).shape == (1, 7)
    assert len(fitted.backtest()) == 5


# Summaries


def test_the_summary(capsys):
    fitted = small(difference=(1, 4), verbose=1).fit(MANY["arrays"])
    first = "3 series, 210 steps, season 4; GRU of 6 units over 5 differences over 1, 4, recursive, horizon 3"
    assert fitted.summary().split("\n")[0] == first
    ours, naive = fitted.tail_score_.mase, fitted.tail_score_.seasonal_naive
    assert fitted.summary().split("\n")[1] == (
        f"held-out tail, 36 forecasts: mean absolute scaled error {ours:.3f}, seasonal naive {naive:.3f}"
    )
    assert len(fitted.summary().split("\n")) == 3
    assert capsys.readouterr().out.endswith(f"\n{fitted.summary()}\n")
    fitted.backtest(1)
    assert capsys.readouterr().out == ""
    fitted.tail_score_ = Score(1.0, 0.5, 0.8, nan)
    assert fitted.summary() == (
        f"{first}\n"
        "held-out tail, 36 forecasts: mean absolute scaled error 0.500, seasonal naive 0.800\n"
        "that is 38% better than repeating the last season"
    )
    fitted.tail_score_ = Score(1.0, 0.8, 0.8, nan)
    assert fitted.summary().endswith("\nthat is NOT better than repeating the last season")


def test_the_summary_without_a_held_out_part(capsys):
    fitted = small(difference=(), strategy="direct", calibration=0).fit(np.resize(values(), 1234))
    assert fitted.summary() == ("1 series, 1,234 steps, season 4; GRU of 6 units over 5 values, direct, horizon 3")
    assert capsys.readouterr().out == ""


# An estimator


def test_fits_are_reproducible_to_the_bit():
    settings = {"dropout": 0.3, "num_layers": 2}
    one, two = (small(**settings).fit(MANY["frame"]) for _ in range(2))
    assert weights(one) == weights(two)
    assert_equal(one.predict(), two.predict())
    assert weights(small(**settings, random_state=1).fit(MANY["frame"])) != weights(one)
    assert_equal(one.fit(MANY["frame"]).predict(), two.predict())  # fitting again starts from the beginning


def test_parameters_reach_the_regressor():
    settings = {
        "hidden_size": 3, "num_layers": 2, "dropout": 0.25, "reset": "before", "epochs": 1, "batch_size": 7,
        "learning_rate": 0.03, "weight_decay": 0.5, "random_state": 11, "device": "cpu", "backend": "equations",
    }  # fmt: skip
    fitted = small(**settings).fit(values())
    result = fitted.regressor_.get_params()
    assert {name: result[name] for name in settings} == settings
    assert result["standardize"] is False
    assert fitted.regressor_.n_iter_ == 1


def test_clone_and_get_params():
    base = small(difference=[1, 4])
    names = list(inspect.signature(GRUForecaster).parameters)
    assert list(base.get_params()) == sorted(names)
    assert base.set_params(window=6) is base
    assert base.fit(values()) is base
    copy = clone(base)
    assert copy.get_params() == base.get_params()
    assert copy.window == 6
    assert not hasattr(copy, "regressor_")
    with pytest.raises(ValueError, match="Invalid parameter 'windw'"):
        base.set_params(windw=3)


def test_fitting_does_not_change_the_parameters():
    difference, random = [1, 4], np.random.RandomState(5)
    base = small(difference=difference, random_state=random)
    base.fit(values())
    assert base.difference is difference
    assert base.random_state is random
    first = weights(base)
    assert weights(base.fit(values())) != first  # a generator continues


@pytest.mark.parametrize("use", ["predict", "predict_interval", "summary", "backtest", "plot"])
def test_forecasts_before_fit_are_refused(use):
    with pytest.raises(NotFittedError):
        getattr(small(), use)()


def test_score_and_save_before_fit_are_refused(tmp_path):
    with pytest.raises(NotFittedError):
        small().score(values())
    with pytest.raises(NotFittedError):
        small().save(tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("where", ["reading", "checking", "learning", "calibrating"])
def test_a_failed_fit_leaves_the_forecaster_unchanged(monkeypatch, where):
    def fail(*_, **__):
        raise RuntimeError("on purpose")

    new, fitted = small(), small().fit(values())
    before, forecast, interval = dict(vars(fitted)), fitted.predict(), fitted.predict_interval()
    bare = dict(vars(new))
    y = {"reading": [1.0, nan], "checking": values(5)}.get(where, values(50, 1))
    if where in ("learning", "calibrating"):
        owner, name = (GRURegressor, "fit") if where == "learning" else (GRUForecaster, "_calibrated")
        monkeypatch.setattr(owner, name, fail)
    for estimator in (new, fitted):
        with pytest.raises((InputError, RuntimeError)):
            estimator.fit(y)
    assert vars(new) == bare
    assert vars(fitted).keys() == before.keys()
    assert all(vars(fitted)[name] is before[name] for name in before)
    assert_equal(fitted.predict(), forecast)
    assert_equal(fitted.predict_interval(), interval)


def test_pickle():
    fitted = small().fit(MANY["frame"])
    assert_equal(pickle.loads(pickle.dumps(fitted)).predict_interval(), fitted.predict_interval())


# On disk


def artists(figure: Figure) -> list:
    """Return all that was drawn: the title, lines and areas of each chart."""
    return [
        (
            axes.get_title(),
            [(line.get_label(), list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines],
            [(area.get_label(), area.get_paths()[0].vertices.tolist()) for area in axes.collections],
        )
        for axes in figure.axes
    ]


SAVED = {**{f"one: {form}": y for form, y in ONE.items()}, **{f"many: {form}": y for form, y in MANY.items()}}


@pytest.mark.parametrize("form", SAVED)
def test_save_and_load_round_trip(tmp_path, form):
    fitted = small(strategy="direct" if "frame" in form else "recursive").fit(SAVED[form])
    fitted.save(tmp_path / "saved")
    assert sorted(p.name for p in (tmp_path / "saved").iterdir()) == ["config.json", "model.safetensors"]
    result = GRUForecaster.load(tmp_path / "saved")
    assert result.get_params() == fitted.get_params()
    assert weights(result) == weights(fitted)
    assert_equal(result.predict(), fitted.predict())
    assert_equal(result.predict_interval(2, coverage=0.6), fitted.predict_interval(2, coverage=0.6))
    assert result.summary() == fitted.summary()
    assert result.tail_score_ == pytest.approx(fitted.tail_score_, nan_ok=True)
    assert artists(result.plot()) == artists(fitted.plot())
    assert_equal(result.backtest(1), fitted.backtest(1))
    assert_equal(result.fit(SAVED[form]).predict(), fitted.predict())


@pytest.mark.parametrize("form", ["array", "frame", "long"])
def test_features_and_differences_survive_saving(tmp_path, form):
    if form == "long":
        rows = long_form({"b": N + H, "a": N - 9 + H}, 2)
        ahead = rows.groupby("unique_id").tail(H).drop(columns="y")
        fitted = small(difference=(1, 4), calibration=0).fit(rows.drop(index=ahead.index))
    else:
        X = pd.DataFrame(features(N + H), months(N + H), ["q", "p"]) if form == "frame" else features(N + H)
        ahead = X[N:]
        fitted = small(difference=(1, 4), calibration=0).fit(MANY["frame"] if form == "frame" else values(), X[:N])
    fitted.save(tmp_path)
    result = GRUForecaster.load(tmp_path)
    assert_equal(result.predict(X=ahead), fitted.predict(X=ahead))
    if form != "array":
        assert_equal(result.predict(X=ahead[ahead.columns[::-1]]), fitted.predict(X=ahead))
    assert result.tail_score_ is None
    assert result.lags_ == (1, 4)


def test_a_directory_is_only_replaced_on_request(tmp_path):
    fitted, other = small().fit(values()), small().fit(values(50, 1))
    fitted.save(tmp_path / "a")
    with refused(f"{tmp_path / 'a'} already holds a fitted estimator: replace it with overwrite=True (--overwrite)"):
        other.save(tmp_path / "a")
    assert_equal(GRUForecaster.load(tmp_path / "a").predict(), fitted.predict())
    other.save(tmp_path / "a", overwrite=True)
    assert_equal(GRUForecaster.load(tmp_path / "a").predict(), other.predict())


def test_another_kind_of_estimator_is_not_loaded(tmp_path):
    GRURegressor(hidden_size=3, epochs=1).fit(features()[:, :, None], values()).save(tmp_path / "regressor")
    small().fit(values()).save(tmp_path / "forecaster")
    with refused(f"{tmp_path}/regressor holds a GRURegressor, not a GRUForecaster: use GRURegressor.load"):
        GRUForecaster.load(tmp_path / "regressor")
    with refused(f"{tmp_path}/forecaster holds a GRUForecaster, not a GRURegressor: use GRUForecaster.load"):
        GRURegressor.load(tmp_path / "forecaster")
    with refused(
        f"{tmp_path}/none holds no fitted estimator (there is no config.json): name the directory of a saved estimator"
    ):
        GRUForecaster.load(tmp_path / "none")


def test_a_name_that_cannot_be_saved(tmp_path):
    fitted = small().fit(pd.Series(values(), name=("a", 1)))
    with refused("the name ('a', 1) of a series cannot be saved: use strings or numbers as names"):
        fitted.save(tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A saved forecaster with dates, features and differences."""
    path = tmp_path_factory.mktemp("written") / "saved"
    index = pd.date_range("2024-03-25", periods=N, freq="D", tz="Europe/Berlin")
    y = pd.DataFrame({"a": values(), "b": values(N, 1)}, index)
    small(difference=(1, 4)).fit(y, pd.DataFrame(features(), index, ["p", "q"])).save(path)
    return path


def signed(config: dict, folder) -> bytes:
    """Return an edited config.json with the matching checksum, as another program could have written it."""
    learned = {name: config.get(name) for name in ("estimator", "parameters", "facts")}
    checksum = estimator_directory._checksum(learned, (folder / "model.safetensors").read_bytes())
    return json.dumps({**config, "sha256": checksum}).encode()


def load_or_refuse(path, content: bytes, name: str, written) -> bool:
    """Return True if damaged files load; fail for anything but a forecaster or an InputError."""
    path.mkdir()
    for file in ("config.json", "model.safetensors"):
        shutil.copy(written / file, path)
    (path / name).write_bytes(content)
    message = ""
    try:
        GRUForecaster.load(path)
    except InputError as error:
        message = str(error)
    assert not message or str(path) in message
    return not message


@damaging
@given(data=st.data(), name=st.sampled_from(["config.json", "model.safetensors"]))
def test_damaged_bytes(data, name, written, tmp_path_factory):
    content = (written / name).read_bytes()
    place, flip = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(1, 255))
    other = data.draw(
        st.sampled_from([content[:place], content[:place] + bytes([content[place] ^ flip]) + content[place + 1 :]])
        | st.binary(max_size=60)
    )
    read = load_or_refuse(tmp_path_factory.mktemp("damaged") / "saved", other, name, written)
    assert not (read and name == "model.safetensors")


def places(value, path=()) -> list[tuple]:
    """Yield the path of every value in JSON."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, part in inner for place in places(part, (*path, key)))]


@damaging
@given(
    data=st.data(),
    other=st.sampled_from(
        [None, -1, 0, 3, 10**30, 1.5, True, "", "x", "D", [], [1], {}, {"pairs": 3}, "Europe", "gone"]
    ),
)
def test_damaged_settings(data, other, written, tmp_path_factory):
    config = json.loads((written / "config.json").read_bytes())
    *way, key = data.draw(st.sampled_from([place for place in places(config) if place]))
    inner = config
    for part in way:
        inner = inner[part]
    same = inner[key] == other and (key == "format" or type(inner[key]) is type(other))
    if other == "gone":
        del inner[key]
    else:
        inner[key] = other
    content = json.dumps(config).encode()
    read = load_or_refuse(tmp_path_factory.mktemp("damaged") / "saved", content, "config.json", written)
    if way == [] and key in (
        "files",
        "replaced",
    ):  # older versions wrote neither; checksums cover the contents of files
        return
    assert read == (same or (way, key) == ([], "headgate"))  # the version that wrote it does not matter


@pytest.mark.parametrize("layers", [2, 10**30])
def test_parameters_that_do_not_match_the_weights_are_refused(layers, written, tmp_path):
    """Refused before a model of that size is made, which would take forever for the larger number."""
    config = json.loads((written / "config.json").read_bytes())
    config["parameters"]["num_layers"] = layers
    shutil.copytree(written, tmp_path / "saved")
    (tmp_path / "saved" / "config.json").write_text(json.dumps(config))
    damaged = f"{tmp_path}/saved/config.json or model.safetensors is damaged or from a different save: restore both, "
    with refused(damaged + "or fit again"):
        GRUForecaster.load(tmp_path / "saved")
    (tmp_path / "saved" / "config.json").write_bytes(signed(config, written))
    with refused(
        f"config.json and model.safetensors in {tmp_path}/saved do not match (weights of the sizes "
        "{'gru.weight_hh_l0': (18, 6), 'gru.weight_ih_l0': (18, 3)} do not fit hidden_size=6): restore both"
    ):
        GRUForecaster.load(tmp_path / "saved")


def test_undamaged_files_are_read(written, tmp_path):
    assert load_or_refuse(tmp_path / "saved", (written / "config.json").read_bytes(), "config.json", written)


# Pictures


def line(axes, label: str):
    [result] = [line for line in axes.lines if line.get_label() == label]
    return result


def test_a_picture(tmp_path):
    fitted = small().fit(ONE["series"])
    after = pd.Series(values(N + 2)[N:], months(N + 2)[N:])
    figure = fitted.plot(actual=after, coverage=0.7, path=tmp_path / "a.png")
    assert isinstance(figure, Figure)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    [axes] = figure.axes
    assert axes.get_ylabel() == "sales"
    dates = list(months(N + H).to_pydatetime())
    history = line(axes, "history")
    assert list(history.get_xdata()) == dates[N - 48 : N]
    np.testing.assert_array_equal(history.get_ydata(), values()[-48:])
    forecast, interval = line(axes, "forecast"), fitted.predict_interval(coverage=0.7)
    assert list(forecast.get_xdata()) == dates[N - 1 :]
    np.testing.assert_array_equal(forecast.get_ydata(), [values()[-1], *interval["forecast"]])
    came = line(axes, "actual")
    assert list(came.get_xdata()) == dates[N : N + 2]
    np.testing.assert_array_equal(came.get_ydata(), after)
    assert forecast.get_color() != came.get_color()
    [area] = axes.collections
    assert area.get_label() == "70% interval"
    np.testing.assert_allclose(area.get_facecolor()[0], to_rgba(forecast.get_color(), 0.2))
    days = (months(N + H)[N:] - pd.Timestamp("1970-01-01")).days
    corners = {(x, y) for x, y in area.get_paths()[0].vertices}
    assert corners == {*zip(days, interval["lower"], strict=True), *zip(days, interval["upper"], strict=True)}
    assert len(axes.get_legend().get_texts()) == 4


def test_the_legend_covers_no_data():
    figure = small().fit(ONE["series"]).plot()
    figure.canvas.draw()
    [axes] = figure.axes
    assert axes.get_legend().get_window_extent().x0 >= axes.get_window_extent().x1


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("a.png", b"\x89PNG\r\n\x1a\n"),
        ("a.svg", b"<?xml"),
        ("a.PDF", b"%PDF"),
        ("a.jpg", b"\xff\xd8\xff"),
        ("a", b"\x89PNG\r\n\x1a\n"),
    ],
)
def test_the_suffix_determines_the_format_of_a_picture(name, begins, tmp_path):
    small().fit(ONE["series"]).plot(path=tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(begins)
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_picture_has_twice_the_resolution(tmp_path):
    figure = small().fit(ONE["series"]).plot(path=tmp_path / "a.png")
    width, height = np.frombuffer((tmp_path / "a.png").read_bytes()[16:24], ">u4")
    assert [width, height] == pytest.approx(200 * figure.get_size_inches())


def test_an_unknown_picture_format_is_refused_and_nothing_written(tmp_path):
    with pytest.raises(InputError, match=r"^a picture cannot be written as a\.doc: its name must end with \..*\.png"):
        small().fit(ONE["series"]).plot(path=tmp_path / "a.doc")
    assert not list(tmp_path.iterdir())


def test_a_failed_picture_leaves_the_previous_file(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    fitted = small().fit(ONE["series"])
    (tmp_path / "a.png").write_bytes(b"before")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        fitted.plot(path=tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == b"before"
    assert len(list(tmp_path.iterdir())) == 1


def test_fonts_come_from_the_style():
    series = forecaster.Panel.read(ONE["series"]).series[0]
    figure = draw_forecast([(series, np.ones(H), None, None)], coverage=0.8, style={"font.family": ["DejaVu Serif"]})
    assert figure.axes[0].yaxis.label.get_fontfamily() == ["DejaVu Serif"]


@pytest.mark.slow
@pytest.mark.parametrize("first", ["", "import matplotlib.pyplot as plt\n"], ids=["plain", "pyplot"])
def test_a_notebook_displays_the_picture(first, tmp_path, monkeypatch):
    """The last expression of a cell shows the picture exactly once, with or without pyplot imported."""
    nbformat, nbclient = (
        pytest.importorskip(name, reason="needs nbclient and ipykernel") for name in ("nbformat", "nbclient")
    )
    pytest.importorskip("ipykernel", reason="needs nbclient and ipykernel")
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    code = (
        f"{first}import numpy as np\nfrom headgate import GRUForecaster\n"
        "f = GRUForecaster(horizon=3, hidden_size=4, epochs=1).fit(np.sin(np.arange(60.0)))\nf.plot()"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from Jupyter
        try:
            nbclient.NotebookClient(notebook, timeout=300, startup_timeout=60, kernel_name="python3").execute()
        except (OSError, RuntimeError) as error:
            pytest.skip(f"no kernel can be started here: {error!r}")
    shown = [output["data"] for output in notebook.cells[0].outputs if "image/png" in output.get("data", {})]
    assert len(shown) == 1
    assert base64.b64decode(shown[0]["image/png"]).startswith(b"\x89PNG")


def test_a_picture_without_interval_dates_or_names():
    fitted = small(calibration=0, horizon=14).fit(values())
    figure = fitted.plot(actual=values(N + 20)[N:])
    [axes] = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "y")
    assert not axes.collections
    assert list(line(axes, "history").get_xdata()) == list(range(N - 56, N))
    assert list(line(axes, "forecast").get_xdata()) == list(range(N - 1, N + 14))
    np.testing.assert_array_equal(line(axes, "actual").get_ydata(), values(N + 20)[N : N + 14])


def test_a_picture_of_periods_has_dates():
    [axes] = small().fit(ONE["periods"]).plot().figure.axes
    assert list(line(axes, "forecast").get_xdata()) == list(months(N + H)[N - 1 :].to_pydatetime())


def test_pictures_of_several_series():
    frame = pd.DataFrame({"abcde"[s]: values(N, s) for s in range(5)}, months(N))
    fitted = small().fit(frame)
    assert [axes.get_ylabel() for axes in fitted.plot().axes] == ["a", "b", "c", "d"]
    came = frame[["e", "b"]][:2].set_axis(months(N + 2)[N:])
    figure = fitted.plot(series=["b", "e"], actual=came)
    assert [axes.get_ylabel() for axes in figure.axes] == ["b", "e"]
    for axes in figure.axes:
        name = axes.get_ylabel()
        np.testing.assert_array_equal(line(axes, "history").get_ydata(), frame[name][-48:])
        np.testing.assert_array_equal(line(axes, "forecast").get_ydata()[1:], fitted.predict()[name])
        np.testing.assert_array_equal(line(axes, "actual").get_ydata(), came[name])
    [axes] = fitted.plot(series=["c"], actual=came[["e"]]).axes
    assert [line.get_label() for line in axes.lines] == ["history", "forecast"]


def test_a_picture_of_another_history_and_features():
    X = features(N + H)
    fitted = small().fit(values(), X[:N])
    [axes] = fitted.plot(2, X[31:33], y=values(31), past_X=X[:31]).axes
    np.testing.assert_array_equal(line(axes, "history").get_ydata(), values(31))
    expected = fitted.predict(2, X[31:33], y=values(31), past_X=X[:31])
    np.testing.assert_array_equal(line(axes, "forecast").get_ydata()[1:], expected)


# Short series


AUTO = {"window": "auto", "season_length": "auto", "epochs": 3, "hidden_size": 6, "random_state": 0}


def test_five_years_of_months_have_intervals():
    y = pd.Series(values(60), months(60))
    fitted = GRUForecaster(horizon=12, difference=1, **AUTO).fit(y)
    assert fitted.has_intervals_
    assert fitted.errors_.shape == (9, 12)  # a 90 % interval needs 9; a fifth of the steps would give 1
    assert fitted.window_ == 19  # half of the 40 remaining steps, less one difference
    for coverage in (0.8, 0.9):
        assert fitted.predict_interval(coverage=coverage).shape == (12, 3)
    mean, deviation = scale_by_hand(y, fitted.lags_)  # after calibration it is fitted to the whole series
    assert (fitted.scales_[None].mean, fitted.scales_[None].deviation) == pytest.approx((mean, deviation))
    whole = GRUForecaster(horizon=12, difference=1, calibration=0, **{**AUTO, "window": 19}).fit(y)
    assert weights(fitted) == weights(whole)
    [axes] = fitted.plot().axes
    assert len(axes.collections) == 1


@pytest.mark.parametrize(("n", "intervals"), [(48, True), (47, False), (14, False), (13, False), (6, False)])
def test_a_series_too_short_for_intervals_is_forecast_without_them(n, intervals, tmp_path):
    y = pd.Series(values(n), months(n))
    forecaster = GRUForecaster(horizon=12, difference=1, **AUTO)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted = forecaster.fit(y)
    assert (
        [str(w.message) for w in caught] == []
        if intervals
        else [f"the forecasts come without intervals: y has {n} steps, 48 would do; a smaller horizon needs fewer"]
    )
    assert fitted.has_intervals_ is intervals
    assert np.isfinite(fitted.predict()).all()
    fitted.save(tmp_path / "a")
    again = GRUForecaster.load(tmp_path / "a")
    assert again.has_intervals_ is intervals
    for one in (fitted, again):
        [axes] = one.plot().axes
        assert len(axes.collections) == intervals
        if not intervals:
            with refused(
                "an interval of coverage 0.8 needs 4 forecasts of the held-out part, but there are 0: "
                f"y has {n} steps, 48 would do; a smaller horizon needs fewer"
            ):
                one.predict_interval()
    assert math.isnan(fitted.score(pd.Series(values(n + 12)[n:], months(n + 12)[n:])).coverage) is not intervals


def test_a_backtest_warns_once_about_folds_without_intervals():
    y = pd.Series(values(75), months(75))
    with pytest.warns(UserWarning, match="intervals") as caught:
        scores = GRUForecaster(horizon=12, **AUTO).backtest(3, y)
    assert [str(w.message) for w in caught] == [
        "1 of 3 folds have too few earlier steps for intervals: their coverage is nan"
    ]
    assert scores["coverage"].isna().tolist() == [True, False, False]
    assert np.isfinite(scores["mase"]).all()


def test_a_season_longer_than_the_series_is_ignored():
    y = pd.Series(values(12), months(12))
    with pytest.warns(UserWarning, match="^the forecasts come without intervals"):
        fitted = GRUForecaster(horizon=3, difference=1, **AUTO).fit(y)
    assert fitted.season_length_ == 1


@pytest.mark.parametrize("F", [0, 2])
@pytest.mark.parametrize("difference", [(), 1, (1, 4)])
@pytest.mark.parametrize("strategy", ["recursive", "direct"])
def test_a_short_series_of_a_panel_is_forecast_by_the_model_of_the_others(difference, strategy, F, tmp_path):
    S = sum(as_tuple(difference))
    lengths = {"b": N, "x": max(S, 1), "a": N - 9, "c": S + 4}
    rows = long_form({name: n + H for name, n in lengths.items()}, F)
    ahead = rows.groupby("unique_id").tail(H).drop(columns="y")
    known = rows.drop(index=ahead.index)
    base = small(difference=difference, strategy=strategy, epochs=4)
    message = (
        f"2 of 4 series are too short for training, with fewer than {S + (6 if strategy == 'recursive' else 8)} "
        "steps ('x', 'c'): they are forecast by the model of the other series"
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        fitted = base.fit(known)
    alone = clone(base).fit(known[known["unique_id"].isin(["a", "b"])])
    assert weights(fitted) == weights(alone)
    np.testing.assert_array_equal(fitted.errors_, alone.errors_)
    X = ahead if F else None
    result = fitted.predict(X=X)
    assert result["unique_id"].tolist() == [name for name in "bxac" for _ in range(H)]
    expected = alone.predict(X=X)
    np.testing.assert_array_equal(result[result["unique_id"].isin(["a", "b"])]["y"], expected["y"])
    y = known[known["unique_id"] == "c"]["y"].to_numpy()
    X_c = rows[rows["unique_id"] == "c"].iloc[:, 3:].to_numpy(float) if F else np.empty((S + 4 + H, 0))
    X_c = fitted.features_scale_.apply(X_c)
    fitted.window_ = 4  # by hand: as if the window had the length of the series
    by_hand = forecast_by_hand(fitted, y, X_c, H, scale_by_hand(y, as_tuple(difference)))
    fitted.window_ = 5
    np.testing.assert_allclose(result[result["unique_id"] == "c"]["y"], by_hand, rtol=1e-5)
    assert np.isfinite(result["y"]).all()
    fitted.save(tmp_path / "a")
    assert_equal(GRUForecaster.load(tmp_path / "a").predict(X=X), result)
    assert GRUForecaster.load(tmp_path / "a").short_ == ("x", "c")


def test_a_series_shorter_than_the_differences_is_refused():
    with pytest.raises(InputError, match=r"^series 'x' has 4 steps, but differences over 1, 4 need 5: remove it, or"):
        small(difference=(1, 4)).fit(long_form({"b": N, "x": 4}))


def test_series_that_begin_too_late_are_left_out_of_folds():
    with pytest.warns(UserWarning, match="series") as caught:
        scores = small().backtest(2, long_form({"b": N, "x": 5, "a": N}))
    assert str(caught[-1].message) == (
        "1 of 3 series begin too late for some of the folds and are left out of those (series 'x')"
    )
    assert scores["series"].tolist() == ["b", "a", "b", "x", "a"]


def test_a_single_step_is_refused():
    with refused(
        "y has 1 step; window=1, season_length=1 and strategy=recursive need 2 for training: give a longer series, or "
        "a smaller window, horizon or calibration"
    ):
        GRUForecaster(horizon=3, **AUTO).fit([4.0])


@pytest.mark.parametrize(
    "y", [np.full(30, 1e-6), -4e9 + 3.0 * np.arange(40), np.zeros(30)], ids=["tiny", "line", "zeros"]
)
def test_constant_differences_are_continued_exactly(y):
    fitted = small(difference=1).fit(y)
    expected = y[-1] + (y[1] - y[0]) * np.arange(1, H + 1)
    np.testing.assert_allclose(fitted.predict(), expected, rtol=1e-12)
    np.testing.assert_allclose(fitted.predict_interval()["upper"], expected, rtol=1e-12)
    panel = small(difference=1).fit(np.stack([values(len(y), 3), y], 1))
    np.testing.assert_allclose(panel.predict()[:, 1], expected, rtol=1e-12)


def test_different_seasons_are_refused():
    days = pd.DataFrame({"unique_id": "d", "ds": pd.date_range("2020-01-01", periods=40), "y": values(40)})
    with refused(
        "by their dates, series 'm' has a season of 12 steps and series 'd' one of 7: forecast them separately, or "
        "give season_length"
    ):
        GRUForecaster(horizon=H, **AUTO).fit(pd.concat([long_form({"m": 50}), days]))


# Invalid arguments


WHOLE = 'must be "auto" or a whole number of steps, at least 1, got '
HORIZON = "horizon must be a whole number of steps, at least 1, got "
DIFFERENCE = 'difference must be "auto", a lag of at least 1, or several, got '


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"horizon": 0}, "horizon must be at least 1 and finite, got 0"),
        ({"horizon": -3}, "horizon must be at least 1 and finite, got -3"),
        ({"horizon": 2**31}, "horizon must be at most 2147483647"),
        ({"horizon": True}, "horizon must be a whole number, got True"),
        ({"horizon": 2.0}, "horizon must be a whole number, got 2.0"),
        ({"horizon": np.float64(2)}, "horizon must be a whole number, got 2.0"),
        ({"horizon": "3"}, "horizon must be a whole number, got '3'"),
        ({"horizon": None}, "horizon must be a whole number, got None"),
        ({"window": 0}, f"window {WHOLE}0"),
        ({"window": 5.5}, f"window {WHOLE}5.5"),
        ({"window": True}, f"window {WHOLE}True"),
        ({"window": "all"}, f"window {WHOLE}'all'"),
        ({"window": None}, f"window {WHOLE}None"),
        ({"season_length": 0}, f"season_length {WHOLE}0"),
        ({"season_length": 2.5}, f"season_length {WHOLE}2.5"),
        ({"season_length": None}, f"season_length {WHOLE}None"),
        ({"season_length": "year"}, f"season_length {WHOLE}'year'"),
        ({"strategy": "both"}, "strategy must be one of recursive, direct, got 'both'"),
        ({"strategy": None}, "strategy must be a string, got None"),
        ({"difference": "yes"}, "difference must be \"auto\", a lag, or several, got 'yes'"),
        ({"difference": 0}, DIFFERENCE + "0"),
        ({"difference": True}, DIFFERENCE + "True"),
        ({"difference": 1.5}, DIFFERENCE + "1.5"),
        ({"difference": (1, -4)}, DIFFERENCE + "(1, -4)"),
        ({"calibration": 1}, "calibration must be below 1, got 1.0"),
        ({"calibration": 1.5}, "calibration must be below 1, got 1.5"),
        ({"calibration": -0.1}, "calibration must be at least 0 and finite, got -0.1"),
        ({"calibration": nan}, "calibration must be at least 0 and finite, got nan"),
        ({"calibration": "0.2"}, "calibration must be \"auto\" or a number, got '0.2'"),
        ({"fill": "zero"}, 'fill must be None, "linear", "forward" or a number, got \'zero\''),
        ({"hidden_size": 0}, "hidden_size must be at least 1 and finite, got 0"),
        ({"dropout": 1.0}, "dropout must be below 1, got 1.0"),
        ({"learning_rate": 0}, "learning_rate must be above 0 and finite, got 0.0"),
        ({"reset": "never"}, "reset must be one of after, before, got 'never'"),
        ({"device": 3}, "device must be a string, got 3"),
        ({"backend": "gpu"}, "backend must be one of auto, equations, torch, native, got 'gpu'"),
        (
            {"epochs": 0, "batch_size": 1.5},
            "epochs must be at least 1 and finite, got 0; batch_size must be a whole number, got 1.5",
        ),
    ],
)  # fmt: skip
def test_invalid_parameters_are_refused(parameters, message):
    with refused(message):
        small(**parameters).fit(values())
    with refused(message):  # the horizon of its forecasts is another
        small(**parameters).backtest(2, values(), horizon=2)


def test_more_invalid_parameters_are_refused():
    with refused("verbose must be a whole number, got False"):
        small(verbose=False).fit(values())
    for horizon in (0, True, 2.0):
        with refused(HORIZON + repr(horizon)):
            small(horizon=horizon).backtest(2, values())


def test_numpy_numbers_are_accepted():
    settings = {"horizon": np.int32(H), "window": np.int64(5), "season_length": np.uint8(4), "hidden_size": np.int16(6),
                "epochs": np.int64(2), "calibration": np.float32(0.25), "learning_rate": np.float64(0.01)}  # fmt: skip
    plain = {name: value.item() for name, value in settings.items()}
    np.testing.assert_array_equal(small(**settings).fit(values()).predict(), small(**plain).fit(values()).predict())
    small(calibration=0, dropout=0, weight_decay=0).fit(values())  # integers for floats


@pytest.mark.parametrize(
    ("parameters", "need", "tail"),
    [
        ({}, 7, 3),  # a window of differences and one target
        ({"difference": ()}, 6, 3),
        ({"difference": (1, 4)}, 11, 3),
        ({"strategy": "direct"}, 9, 3),
        ({"season_length": 9}, 11, 3),
        ({"calibration": 0}, 7, 0),
        ({"calibration": 0.5, "season_length": 16, "difference": ()}, 17, 17),
        ({"horizon": 6, "difference": ()}, 6, 6),
    ],
)
def test_a_series_that_is_too_short_is_refused(parameters, need, tail):
    base = small(**{"difference": 1, "calibration": 0.2, **parameters})
    n = need + tail
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about missing intervals
        fitted = base.fit(values(n))
    assert fitted.errors_.shape == (tail - base.horizon + 1 if tail else 0, base.horizon)
    held_out = max(math.ceil(base.calibration * (n - 1)), base.horizon) if tail else 0
    assert n - 1 - held_out < need
    part = f", of which calibration={base.calibration:g} holds out {held_out}" if tail else ""
    message = (
        f"y has {n - 1} steps{part}; window=5, season_length={base.season_length} and strategy={base.strategy} need "
        f"{need} for training: give a longer series, or a smaller window, horizon or calibration"
    )
    with refused(message):
        base.fit(values(n - 1))


def test_if_all_series_are_too_short_the_longest_is_named():
    with pytest.raises(InputError, match=r"^series 'a' has 6 steps; window=5, season_length=4 and strategy=recursive"):
        small(difference=1).fit(long_form({"b": 5, "a": 6, "c": 1}))


@pytest.mark.parametrize("horizon", [0, -1, True, 1.5])
def test_invalid_horizons_are_refused(horizon):
    fitted = small().fit(values())
    for use in (fitted.predict, fitted.predict_interval, fitted.plot, lambda h: fitted.backtest(horizon=h)):
        with refused(HORIZON + repr(horizon)):
            use(horizon)


def test_a_horizon_that_is_too_long_is_refused():
    fitted = small(strategy="direct").fit(values())
    direct = 'strategy="direct" forecasts at most 3 steps, got 4: fit with horizon=4'
    for use in (fitted.predict, fitted.predict_interval, fitted.plot, lambda h: fitted.backtest(horizon=h)):
        with refused(direct):
            use(4)
    fitted = small().fit(values())
    intervals = "intervals are calibrated for 3 steps, 4 were asked for: fit with horizon=4"
    for use in (fitted.predict_interval, fitted.plot, lambda h: fitted.backtest(horizon=h)):
        with refused(intervals):
            use(4)
    with refused(intervals):
        fitted.score(values(4))


@pytest.mark.parametrize(
    "coverage",
    [0, 1, 0.0, 1.0, -0.5, 1.5, nan, True, None, "0.8", [0.8], np.array([0.5, 0.8]), 80, np.int64(1)],
    ids=repr,
)
def test_invalid_coverages_are_refused(coverage):
    fitted = small().fit(values())
    for use in (fitted.predict_interval, fitted.plot, fitted.backtest):
        with refused(f"coverage must be above 0 and below 1, got {coverage!r}"):
            use(coverage=coverage)
    with refused(f"coverage must be above 0 and below 1, got {coverage!r}"):
        fitted.score(values(N + H)[N:], coverage=coverage)


def test_a_numpy_coverage_is_accepted():
    fitted = small().fit(values())
    assert_equal(fitted.predict_interval(coverage=np.float64(0.8)), fitted.predict_interval())
    assert_equal(fitted.predict_interval(coverage=np.float32(0.5)), fitted.predict_interval(coverage=0.5))


@pytest.mark.parametrize(("coverage", "need"), [(0.8, 4), (0.9, 9), (0.95, 19), (0.5, 1), (0.66, 2)])
def test_intervals_need_enough_forecasts(coverage, need):
    for n in {need - 1, need} - {0}:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if n < 4 else "error", UserWarning)
            fitted = small(horizon=H, calibration=(n + H - 1.5) / N).fit(values())
        assert fitted.has_intervals_ is (n >= 4)
        assert len(fitted.errors_) == n
        if n == need:
            interval = fitted.predict_interval(coverage=coverage)
            np.testing.assert_allclose(
                interval["upper"] - interval["forecast"], fitted.errors_[-1] * fitted.scales_[None].deviation
            )
            continue
        enough = next(m for m in range(N, 999) if math.ceil((n + H - 1.5) / N * m) - H + 1 >= need)
        with refused(
            f"an interval of coverage {coverage:g} needs {need} forecasts of the held-out part, but there are {n}: y "
            f'has 70 steps, {enough} would do, or calibration="auto"; a smaller horizon needs fewer'
        ):
            fitted.predict_interval(coverage=coverage)


def test_no_intervals_without_calibration():
    fitted = small(calibration=0).fit(values())
    with pytest.raises(
        InputError,
        match=r"^an interval of coverage 0\.8 needs 4 forecasts .* there are 0: fit with calibration=\"auto\"",
    ):
        fitted.predict_interval()


def test_a_history_that_is_too_short_is_refused():
    fitted = small(difference=(1, 4)).fit(values())
    assert fitted.predict(y=values(10)).shape == (H,)
    with refused("y has 9 steps, but a forecast needs 10: give a longer history"):
        fitted.predict(y=values(9))
    with refused("series 1 has 4 steps, but a forecast needs 10: give a longer history"):
        fitted.predict(y=[values(12), values(4)])


def test_features_that_do_not_fit_are_refused():
    X = features(N + H)
    fitted = small().fit(values(), X[:N])
    with refused("X must have the 2 features of the 3 steps to come, but there is no X: give one"):
        fitted.predict()
    with refused("X must have the shape (3, features), one row per step, got (2, 2)"):
        fitted.predict(X=X[:2])
    with refused("X must have the shape (3, 2) and only finite numbers, got the shape (3, 1)"):
        fitted.predict(X=X[:3, :1])
    message = "the model was fitted with 2: give them as past_X, or as columns of the long form"
    with refused(f"y has 0 features, {message}"):
        fitted.predict(y=values(30), X=X[N:])
    with refused(f"y has 1 features, {message}"):
        fitted.predict(y=values(30), past_X=X[:30, 0], X=X[N:])
    with refused("X must have the shape (3, 0) and only finite numbers, got the shape (3, 2)"):
        small().fit(values()).predict(X=X[N:])


def test_invalid_actual_values_are_refused():
    fitted = small().fit(MANY["frame"])
    after = MANY["frame"][:H].set_axis(months(N + H)[N:])
    with refused("y must have the 3 series of fit ('a', 'b', 'c'), got 'a', 'c'"):
        fitted.score(after[["a", "c"]])
    with refused("y must have the 3 series of fit ('a', 'b', 'c'), got 0, 1, 2"):
        fitted.score(after.to_numpy())
    with refused("y must start right after the series of fit, at 2021-01-01 00:00:00, got 2021-02-01 00:00:00"):
        fitted.score(after.set_axis(months(N + H + 1)[N + 1 :]))
    fitted = small().fit(long_form({"b": 40, "a": 40}))
    rows = long_form({"b": 43, "a": 43})
    with refused("y must have the same number of steps for every series, got 3 and 2"):
        fitted.score(rows.drop(index=[*range(40), *range(43, 83), 85]))
    many = small().fit(np.stack([values(N, 0)] * 7, 1))
    with refused("y must have the 7 series of fit (0, 1, 2, 3, 4, ...), got None"):
        many.score(values(3))


@pytest.mark.parametrize("folds", [0, -2, True, 2.0, "3"])
def test_invalid_folds_are_refused(folds):
    with refused(f"folds must be a whole number, at least 1, got {folds!r}"):
        small().backtest(folds, values())


def test_too_many_folds_are_refused():
    with refused("24 folds of 3 steps need more than 72 steps, y has 70: use fewer folds or a smaller horizon"):
        small().backtest(24, values())
    with refused("24 folds of 3 steps need more than 72 steps, series 0 has 70: use fewer folds or a smaller horizon"):
        small().backtest(24, MANY["list"])
    with pytest.raises(InputError, match=r"^y has 4 steps; window=5, season_length=7 and strategy=recursive need"):
        small(season_length=7).backtest(22, values())


def test_unknown_series_are_not_drawn():
    with refused("there is no series 'z' to draw: name some of 'a', 'b', 'c'"):
        small().fit(MANY["frame"]).plot(series=["a", "z"])
    with refused("series must name at least one series to draw, got none: omit it, or name some of 'a', 'b', 'c'"):
        small().fit(MANY["frame"]).plot(series=[])


def test_backtest_features_without_a_series_are_refused():
    fitted = small().fit(values(), features())
    for use in (fitted, small()):
        with refused("X goes with y: give both, or neither to test with the series of fit"):
            use.backtest(1, X=features())
    assert_equal(fitted.backtest(1, values(), features()), fitted.backtest(1))


@pytest.mark.parametrize("fill", [True, ["linear"], {}, nan, 10**400, b"linear"], ids=lambda fill: repr(fill)[:20])
def test_invalid_fills_are_refused(fill):
    fitted = small().fit(values()).set_params(fill=fill)
    for use in (fitted.fit, fitted.score, lambda y: fitted.backtest(1, y), lambda y: fitted.predict(y=y)):
        with refused(f'fill must be None, "linear", "forward" or a number, got {fill!r}'):
            use(values()[:H])


# Real data


@pytest.mark.slow
@pytest.mark.parametrize("data", ["carbon dioxide, months", "sunspots, years"])
def test_real_data(data):
    """Forecasts are better than repeating the last season, and intervals cover about as often as they claim."""
    if data.startswith("carbon"):
        y = co2.load_pandas().data["co2"].resample("MS").mean()
        base = GRUForecaster(horizon=12, fill="linear", random_state=0)
    else:
        table = sunspots.load_pandas().data
        index = pd.date_range("1700-01-01", periods=len(table), freq="YS")
        y = pd.Series(table["SUNACTIVITY"].to_numpy(), index)
        base = GRUForecaster(season_length=11, horizon=11, random_state=0)
    result = base.backtest(5, y)
    assert result["mase"].mean() < result["seasonal_naive"].mean()
    assert 0.7 <= result["coverage"].mean() <= 0.9
