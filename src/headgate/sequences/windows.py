"""The parts of a forecast in NumPy: windows, differences and their inverse, and scores.

Letters: N steps of a series, w steps of a window, h steps of a forecast, k steps that the model predicts at once,
F features, n windows or series.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from headgate.errors import InputError


class Score(NamedTuple):
    """Scores of forecasts: lower is better, except for coverage.

    mae             mean absolute error
    mase            mae divided by the mean absolute error, within the history, of repeating the previous season
                    (Hyndman and Koehler 2006); below seasonal_naive is better than repeating the last season
    seasonal_naive  mase of the seasonal-naive forecast of the same steps
    coverage        share of the steps within the interval; nan without one
    """

    mae: float
    mase: float
    seasonal_naive: float
    coverage: float


def score_forecast(
    history: np.ndarray, forecast: np.ndarray, actual: np.ndarray, season: int, half: np.ndarray | None = None
) -> Score:
    """Compare a forecast (h,) with the actual values (h,) that follow a history (N,).

    ``half`` is half the width of the interval (h,), if there is one. Steps whose actual value is NaN do not count. If
    the history is not longer than a season, mase and seasonal_naive are nan.

    >>> score_forecast(np.array([1.0, 2.0, 3.0]), np.array([4.0, 4.0]), np.array([4.0, 6.0]), 1)
    Score(mae=1.0, mase=1.0, seasonal_naive=2.0, coverage=nan)
    """
    known = ~np.isnan(actual)
    if not known.any():
        return Score(np.nan, np.nan, np.nan, np.nan)
    errors = np.abs(forecast - actual)[known]
    covered = np.nan if half is None else float((errors <= half[known]).mean())
    if len(history) <= season:
        return Score(float(errors.mean()), np.nan, np.nan, covered)
    scale = np.abs(history[season:] - history[:-season]).mean()
    naive_errors = np.abs(history[len(history) - season + np.arange(len(actual)) % season] - actual)[known]
    with np.errstate(divide="ignore", invalid="ignore"):  # a history that repeats exactly has the scale 0
        mase, seasonal_naive = errors.mean() / scale, naive_errors.mean() / scale
    return Score(float(errors.mean()), float(mase), float(seasonal_naive), covered)


def mean_score(scores: Sequence[Score]) -> Score:
    """Return the mean of each number over the scores in which it is not nan."""
    columns = np.array(scores)
    return Score(*(float(np.mean(c[~np.isnan(c)])) if not np.isnan(c).all() else np.nan for c in columns.T))


FEWEST, WANTED = 4, 9  # held-out forecasts that an interval of 80 % needs, and one of 90 %
WINDOWS = 8  # windows to learn from that a series should keep when its end is held out


def choose_tails(lengths: Sequence[int], *, horizon: int, reach: int, calibration: float | None) -> list[int]:
    """Choose how many steps at the end of each series to hold out.

    ``reach`` is the number of steps that a window and its target need. calibration None: a fifth of each series, but
    enough for ``WANTED`` held-out forecasts of all series together; if that leaves too little to learn from, the steps
    that can be spared, if they are enough for ``FEWEST`` forecasts, and otherwise none. A number: that share of each
    series, but at least one forecast's length; 0 holds out nothing.

    >>> [choose_tails([n], horizon=12, reach=14, calibration=None) for n in (200, 60, 36, 35)]
    [[40], [20], [15], [0]]
    """
    if calibration is not None:
        return [max(int(np.ceil(calibration * n)), horizon) if calibration else 0 for n in lengths]
    least = reach + WINDOWS - 1
    able = max(1, sum(n >= least + horizon for n in lengths))
    enough, fewest = (horizon + -(-count // able) - 1 for count in (WANTED, FEWEST))
    tails = []
    for n in lengths:
        tail, spare = max(-(-n // 5), enough), n - least
        tails.append(tail if spare >= tail else spare if spare >= fewest else 0)
    return tails


def choose_window(lengths: Sequence[int], *, season: int, lags: int, k: int) -> int:
    """Choose the steps of a window for series with ``lengths`` steps to learn from.

    Two seasons, but at least 24 steps, if the (upper) median series is twice as long. Otherwise half of that series or,
    if that is more, a season, shortened if necessary to leave ``WINDOWS`` windows.

    >>> [choose_window([n], season=12, lags=1, k=1) for n in (160, 40, 21, 6)]
    [24, 19, 12, 2]
    """
    n = sorted(lengths)[len(lengths) // 2] - lags - k
    return max(1, min(max(2 * season, 24), max((n + 1) // 2, min(season, n - WINDOWS + 1))))


def stretches(values: np.ndarray, length: int) -> np.ndarray:
    """Return a view of every stretch of ``length`` steps: (N, ...) -> (N - length + 1, ..., length)."""
    return np.lib.stride_tricks.sliding_window_view(values, length, axis=0)


def windows(z: np.ndarray, features: np.ndarray, k: int) -> np.ndarray:
    """Return model inputs (n, w, 1 + k F): each value of windows z (n, w), and the features of the k steps after it.

    features (N, F) begin with the first step of the first window; each window begins one step after the previous one.
    """
    n, w = z.shape
    if not features.shape[1]:
        return z[:, :, None]
    after = np.concatenate([stretches(features[1 + i :], w)[:n] for i in range(k)], 1)  # (n, k F, w)
    return np.concatenate([z[:, :, None], after.transpose(0, 2, 1)], 2)


def choose_lags(difference: Any, known: Sequence[np.ndarray]) -> tuple[int, ...]:
    """Return the lags that ``difference`` specifies: none, one or several.

    "auto": lag 1 if differencing reduces the standard deviation of the known values of the (median) series (N,).
    """
    if isinstance(difference, str):
        if difference != "auto":
            raise InputError(f'difference must be "auto", a lag, or several, got {difference!r}')
        shares = [np.std(np.diff(values)) / (np.std(values) or 1.0) for values in known if len(values) > 1]
        return (1,) if shares and np.median(shares) < 1 else ()
    lags = () if difference is None else tuple(np.atleast_1d(difference))
    if any(isinstance(lag, bool) or not isinstance(lag, int | np.integer) or lag < 1 for lag in lags):
        raise InputError(f'difference must be "auto", a lag of at least 1, or several, got {difference!r}')
    return tuple(int(lag) for lag in lags)


def differenced(values: np.ndarray, lags: Sequence[int]) -> np.ndarray:
    """Take the differences over each lag in turn: (N,) -> (N - sum of lags,).

    >>> differenced(np.array([1, 2, 4, 8]), [1, 2])
    array([3])
    """
    for lag in lags:
        values = values[lag:] - values[:-lag]
    return values


def unvarying(values: np.ndarray, lags: Sequence[int]) -> float | None:
    """Return the constant value of the differences of a series (N,), up to rounding, or None if they vary.

    Fewer than three differences are too few to tell: return 0 if all are 0, otherwise None. Without lags, return the
    mean of one or two values.

    >>> unvarying(np.array([2.0, 4.0, 6.0, 8.0]), [1]), unvarying(np.array([2.0, 4.0, 6.0, 9.0]), [1])
    (2.0, None)
    """
    z = differenced(values, lags)
    if len(z) < 3:
        return float(z.mean()) if len(z) and not lags else None if z.any() else 0.0
    return float(z.mean()) if np.ptp(z) <= 1e-12 * np.abs(values).max() else None


def summed(z: np.ndarray, ends: np.ndarray, lags: Sequence[int]) -> np.ndarray:
    """Undo the differences z (n, h), given the values before them, ends (n, sum of lags): (n, h).

    >>> summed(np.array([[3]]), np.array([[1, 2, 4]]), [1, 2])
    array([[8]])
    """
    levels = [ends]
    for lag in lags:
        levels.append(levels[-1][:, lag:] - levels[-1][:, :-lag])
    for lag, before in zip(reversed(lags), reversed(levels[:-1]), strict=True):
        values = np.concatenate([before[:, before.shape[1] - lag :], z], 1)
        for step in range(z.shape[1]):
            values[:, lag + step] += values[:, step]
        z = values[:, lag:]
    return z
