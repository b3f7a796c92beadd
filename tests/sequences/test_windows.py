"""Windows, differences and scores equal the results of loops written from their definitions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from headgate.sequences.windows import Score, differenced, mean_score, score_forecast, stretches, summed, windows

quick = settings(deadline=None, max_examples=100)
whole = st.integers(-(2**20), 2**20).map(float)  # sums and differences of these are exact


@pytest.mark.parametrize("length", [1, 3, 7])
def test_stretches(length):
    values = np.arange(7.0) ** 2
    result = stretches(values, length)
    expected = [[values[begin + i] for i in range(length)] for begin in range(7 - length + 1)]
    np.testing.assert_array_equal(result, expected)


def test_stretches_of_columns():
    values = np.arange(10.0).reshape(5, 2)
    result = stretches(values, 3)
    assert result.shape == (3, 2, 3)
    for begin in range(3):
        for column in range(2):
            for i in range(3):
                assert result[begin, column, i] == values[begin + i, column]


@pytest.mark.parametrize("F", [0, 1, 3])
@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("w", [1, 4])
def test_windows(w, k, F):
    n = 6
    z = np.arange(n * w, dtype=float).reshape(n, w) / 7
    features = 1000 + np.arange((n + w + k - 1) * F, dtype=float).reshape(n + w + k - 1, F)
    result = windows(z, features, k)
    assert result.shape == (n, w, 1 + (k * F))
    for begin in range(n):
        for step in range(w):
            expected = [z[begin, step]]
            for ahead in range(1, k + 1):  # the features of the first step after this one, of the second, ...
                expected += [features[begin + step + ahead, feature] for feature in range(F)]
            assert result[begin, step].tolist() == expected


def test_windows_need_no_more_features_than_the_last_step_has():
    features = np.arange(20.0).reshape(10, 2)
    np.testing.assert_array_equal(windows(np.zeros((1, 4)), features[:7], 3), windows(np.zeros((1, 4)), features, 3))


@pytest.mark.parametrize(
    ("lags", "expected"),
    [([], [1, 4, 9, 16, 26, 36]), ([1], [3, 5, 7, 10, 10]), ([2], [8, 12, 17, 20]), ([1, 3], [7, 5]), ([3, 1], [7, 5])],
)
def test_differenced(lags, expected):
    np.testing.assert_array_equal(differenced(np.array([1.0, 4, 9, 16, 26, 36]), lags), expected)


@quick
@given(
    data=st.data(),
    lags=st.lists(st.integers(1, 5), max_size=3),
    n=st.integers(1, 3),
    h=st.integers(1, 9),
    more=st.integers(0, 2),
)
def test_sums_undo_differences(data, lags, n, h, more):
    S = sum(lags)
    values = data.draw(arrays(float, (n, S + more + h), elements=whole))
    z = np.stack([differenced(row, lags) for row in values])[:, more:]
    ends = values[:, more : more + S]
    kept = z.copy(), ends.copy()
    np.testing.assert_array_equal(summed(z, ends, lags), values[:, S + more :])
    np.testing.assert_array_equal(z, kept[0])
    np.testing.assert_array_equal(ends, kept[1])


def test_sums_by_hand():
    # z of step t is (y[t] - y[t-1]) - (y[t-2] - y[t-3])
    y = [5.0, 3.0, 8.0]
    z = [2.0, -1.0, 4.0]
    for value in z:
        y.append(value + y[-1] + y[-2] - y[-3])
    np.testing.assert_array_equal(summed(np.array([z]), np.array([y[:3]]), (1, 2)), [y[3:]])


# Scores


def scored(history, forecast, actual, season, half=None) -> Score:
    """Score by definition: errors over the mean absolute error of repeating the previous season in the history."""
    h = len(actual)
    scale, count = 0.0, 0
    for t in range(season, len(history)):
        scale += abs(history[t] - history[t - season])
        count += 1
    scale /= count
    mae = sum(abs(forecast[t] - actual[t]) for t in range(h)) / h
    naive_error, extended = 0.0, list(history)
    for t in range(h):
        extended.append(extended[-season])  # the value a season before, whether observed or forecast
        naive_error += abs(extended[-1] - actual[t]) / h
    inside = math.nan if half is None else sum(abs(forecast[t] - actual[t]) <= half[t] for t in range(h)) / h
    return Score(mae, mae / scale, naive_error / scale, inside)


@pytest.mark.parametrize("season", [1, 3, 7])
@pytest.mark.parametrize("h", [1, 5, 16])
def test_a_score(season, h):
    random = np.random.default_rng(season * 100 + h)
    history, forecast, actual = random.normal(size=19), random.normal(size=h), random.normal(size=h)
    half = random.uniform(0, 3, h)
    for interval in (None, half):
        result = score_forecast(history, forecast, actual, season, interval)
        assert all(type(number) is float for number in result)
        np.testing.assert_allclose(result, scored(history, forecast, actual, season, interval), rtol=1e-12)
    assert 0 <= result.coverage <= 1


def test_the_edge_of_an_interval_belongs_to_it():
    history, half = np.array([1.0, 2.0, 4.0]), np.array([1.0, 1.0, 1.0, 1.0, 1.0])
    actual = np.array([1.0, -1.0, 1.5, -0.5, 0.0])
    assert score_forecast(history, np.zeros(5), actual, 1, half).coverage == 4 / 5


def test_unknown_actual_values_are_not_scored():
    """By hand: the history repeats with a mean error of 2; the naive forecast is 5, 9, 5, 9, 5."""
    history, forecast, half = np.array([2.0, 8.0, 5.0, 9.0]), np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.full(5, 1.5)
    actual = np.array([math.nan, 3.0, 7.0, math.nan, 6.0])
    result = score_forecast(history, forecast, actual, 2, half)  # errors 1, 4, 1, of the naive 6, 2, 1
    assert result == Score(2.0, 2.0 / 2, 9 / 3 / 2, pytest.approx(2 / 3))
    assert all(type(number) is float for number in result)
    assert math.isnan(score_forecast(history, forecast, actual, 2).coverage)


@pytest.mark.parametrize("half", [None, np.ones(3)])
@pytest.mark.filterwarnings("error")
def test_without_actual_values_the_scores_are_nan(half):
    result = score_forecast(np.array([2.0, 8.0, 5.0]), np.ones(3), np.full(3, math.nan), 1, half)
    assert len(result) == 4
    assert all(type(number) is float and math.isnan(number) for number in result)


@pytest.mark.filterwarnings("error")
def test_the_mean_ignores_nan_scores():
    none = Score(math.nan, math.nan, math.nan, math.nan)
    assert mean_score([Score(1.0, 2.0, 5.0, 0.5), none, Score(2.0, 4.0, 7.0, 1.0)]) == Score(1.5, 3.0, 6.0, 0.75)
    assert mean_score([none, Score(1.0, 2.0, 5.0, math.nan)])[:3] == (1.0, 2.0, 5.0)
    assert all(type(number) is float and math.isnan(number) for number in mean_score([none, none]))


def test_the_shortest_history():
    result = score_forecast(np.array([2.0, 9.0, 5.0]), np.array([1.0, 1.0, 1.0]), np.array([3.0, 7.0, 5.0]), 2)
    assert result[:3] == pytest.approx((4.0, 4.0 / 3, ((9 - 3) + (7 - 5) + (9 - 5)) / 3 / 3))


def test_a_constant_history():
    off = score_forecast(np.ones(6), np.array([2.0, 4.0]), np.array([1.0, 5.0]), 2)
    assert (off.mae, off.mase, off.seasonal_naive) == (1.0, math.inf, math.inf)
    exact = score_forecast(np.ones(6), np.ones(2), np.ones(2), 2)
    assert exact.mae == 0
    assert math.isnan(exact.mase)
    assert math.isnan(exact.seasonal_naive)


def test_the_mean_of_scores():
    result = mean_score([Score(1.0, 2.0, 5.0, 0.5), Score(2.0, 4.0, 5.0, 0.0), Score(6.0, 0.0, 2.0, 1.0)])
    assert result == Score(3.0, 2.0, 4.0, 0.5)
    assert type(result.mae) is float
    assert math.isnan(mean_score([Score(1.0, 2.0, 5.0, math.nan)]).coverage)
