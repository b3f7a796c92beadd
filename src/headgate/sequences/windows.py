"""What forecasts are made of: windows, differences and their undoing, and how good a forecast was. NumPy only.

Letters: N steps of a series, w steps of a window, h steps of a forecast, k of them given at once, F features, n windows
or series.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from headgate.errors import InputError


class Score(NamedTuple):
    """How good forecasts were: lower is better, but for coverage.

    mae             mean absolute error
    mase            that over the mean absolute error of repeating the season before, within the history (Hyndman and
                    Koehler 2006): below seasonal_naive is better than repeating the last season
    seasonal_naive  the mase of the seasonal-naive forecast of the same steps
    coverage        the share of the steps that lay within the interval; nan without one
    """

    mae: float
    mase: float
    seasonal_naive: float
    coverage: float


def score_forecast(
    history: np.ndarray, forecast: np.ndarray, actual: np.ndarray, season: int, half: np.ndarray | None = None
) -> Score:
    """Compare a forecast (h,) with what came (h,), after a history (N,); half: of an interval's width (h,), if any.

    Steps of which it is not known what came (NaN) do not count. A history that is not longer than a season has no
    scale: mase and seasonal_naive are nan.

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
    """The mean of each number, over the scores that have it."""
    columns = np.array(scores)
    return Score(*(float(np.mean(c[~np.isnan(c)])) if not np.isnan(c).all() else np.nan for c in columns.T))


FEWEST, WANTED = 4, 9  # forecasts held out: those that an interval of 80 % needs, and of 90 %
WINDOWS = 8  # that a series should have for learning before some of it is held out


def choose_tails(lengths: Sequence[int], *, horizon: int, reach: int, calibration: float | None) -> list[int]:
    """How many steps at the end of each series to hold out, given how many a window and its target need (reach).

    calibration None: a fifth of a series, and at least so many steps that all series together hold ``WANTED`` forecasts
    out; where that leaves too little to learn from, what can be spared, but for ``FEWEST`` forecasts at least; else 0.
    A number: that share, but at least a forecast's length.

    >>> [choose_tails([n], horizon=12, reach=14, calibration=None) for n in (200, 60, 36, 35)]
    [[40], [20], [15], [0]]
    """
    if calibration is not None:
        return [max(int(np.ceil(calibration * n)), horizon) if calibration else 0 for n in lengths]
    least = reach + WINDOWS - 1
    able = max(1, sum(n >= least + horizon for n in lengths))
    wanted, fewest = (horizon + -(-count // able) - 1 for count in (WANTED, FEWEST))
    tails = []
    for n in lengths:
        want, spare = max(-(-n // 5), wanted), n - least
        tails.append(want if spare >= want else spare if spare >= fewest else 0)
    return tails


def choose_window(lengths: Sequence[int], *, season: int, lags: int, k: int) -> int:
    """The steps of a window for series of which so many steps are learned from: two seasons and at least 24, where the
    (upper) median series has two windows' lengths; less where it is shorter, if it can be a season.

    >>> [choose_window([n], season=12, lags=1, k=1) for n in (160, 40, 21, 6)]
    [24, 19, 12, 2]
    """
    n = sorted(lengths)[len(lengths) // 2] - lags - k
    return max(1, min(max(2 * season, 24), max((n + 1) // 2, min(season, n - WINDOWS + 1))))


def stretches(values: np.ndarray, length: int) -> np.ndarray:
    """Every stretch of so many steps along the first axis: (N, ...) -> (N - length + 1, ..., length), a view."""
    return np.lib.stride_tricks.sliding_window_view(values, length, axis=0)


def windows(z: np.ndarray, features: np.ndarray, k: int) -> np.ndarray:
    """Model inputs (n, w, 1 + k F): beside each value of a window z (n, w) the features of the k steps after it.

    features (N, F) begin with the first window's first step; each window begins a step after the one before.
    """
    n, w = z.shape
    if not features.shape[1]:
        return z[:, :, None]
    after = np.concatenate([stretches(features[1 + i :], w)[:n] for i in range(k)], 1)  # (n, k F, w)
    return np.concatenate([z[:, :, None], after.transpose(0, 2, 1)], 2)


def choose_lags(difference: Any, known: Sequence[np.ndarray]) -> tuple[int, ...]:
    """The lags that ``difference`` means, none, one or several; "auto": 1 where that makes the (median) standard
    deviation of the known values of the series (N,) smaller."""
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
    """Differences over each lag in turn: (N,) -> (N - sum of lags,).

    >>> differenced(np.array([1, 2, 4, 8]), [1, 2])
    array([3])
    """
    for lag in lags:
        values = values[lag:] - values[:-lag]
    return values


def unvarying(values: np.ndarray, lags: Sequence[int]) -> float | None:
    """What the differences of a series (N,) have always been, as far as rounding shows, or None: they vary.

    Of one or two differences we know too little: they have been 0, or vary; of one or two values, their mean.

    >>> unvarying(np.array([2.0, 4.0, 6.0, 8.0]), [1]), unvarying(np.array([2.0, 4.0, 6.0, 9.0]), [1])
    (2.0, None)
    """
    z = differenced(values, lags)
    if len(z) < 3:
        return float(z.mean()) if len(z) and not lags else None if z.any() else 0.0
    return float(z.mean()) if np.ptp(z) <= 1e-12 * np.abs(values).max() else None


def summed(z: np.ndarray, ends: np.ndarray, lags: Sequence[int]) -> np.ndarray:
    """Differences z (n, h) summed up again, from the values before them, ends (n, sum of lags): (n, h).

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
