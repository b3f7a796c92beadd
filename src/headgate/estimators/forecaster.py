"""GRUForecaster: forecasts of time series, with intervals, compared with the seasonal-naive forecast.

Letters: N steps of a series, w steps of a window, h steps of a forecast, k steps predicted at once, F features,
n origins (the steps after which a forecast begins).
"""

import os
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from headgate.errors import InputError
from headgate.estimators.saving import SavedEstimator
from headgate.estimators.sequence import GRURegressor
from headgate.pictures.forecast import draw_forecast
from headgate.sequences.arrays import Scale
from headgate.sequences.conformal import check_coverage, least_errors, observed, quantiles
from headgate.sequences.series import Panel, Series, season_of
from headgate.sequences.windows import (
    FEWEST,
    WANTED,
    Score,
    choose_lags,
    choose_tails,
    choose_window,
    differenced,
    mean_score,
    score_forecast,
    stretches,
    summed,
    unvarying,
    windows,
)
from headgate.settings.estimators import ForecastParameters, check_parameters, share_or_auto, steps_or_auto


@dataclass(kw_only=True, repr=False, eq=False)
class GRUForecaster(ForecastParameters, SavedEstimator):
    """Forecasts of one or many time series with prediction intervals, as a scikit-learn estimator.

    A :class:`GRURegressor` is fitted to windows of the past; one model serves all series.

    Parameters
    ----------
    horizon : int
        Steps of a forecast, for which intervals are calibrated.
    window : int or "auto"
        Steps of the past that a forecast reads. "auto": two seasons and at least 24, but at most half of the training
        part of the median series.
    season_length : int or "auto"
        Steps of a season. "auto": what the dates suggest (12 for months, 7 for days, ...); 1 without dates, or if the
        series are too short to show a season twice.
    strategy : {"recursive", "direct"}
        "recursive": predict one step at a time and append it to the window; "direct": predict all steps at once.
    difference : int, sequence of int or "auto"
        Model the differences over these lags; (): the values themselves; "auto": 1 if that reduces the standard
        deviation. Forecasts are always in the units of y.
    fill : {"linear", "forward"}, number or None
        How to fill missing values: from their neighbours, from the last value before them, or with a number. None:
        missing values are an error.
    calibration : float or "auto"
        The share of each series, at its end, that is held out from training to measure the errors of forecasts.
        Intervals are split-conformal: quantiles of these errors for each step ahead. 0: no intervals. "auto": a fifth,
        or more for short series, to hold out the nine forecasts that a 90 % interval needs, or the four of an 80 %
        interval. If that is more than a fifth, the model is fitted again to the whole series after calibration, so
        that its forecasts are better than the intervals say. If even four would leave less than two seasons to train
        on, ``fit`` warns and ``has_intervals_`` is False.
    hidden_size, num_layers, dropout, reset, epochs, batch_size, learning_rate, weight_decay
        As for :class:`GRURegressor`.
    random_state, verbose, device, backend
        As for :class:`GRURegressor`.

    Attributes
    ----------
    regressor_ : GRURegressor
        The fitted regressor.
    tail_score_ : Score or None
        The score over the part held out; None if nothing was held out.
    has_intervals_ : bool
        True if enough forecasts were held out for an 80 % interval.
    season_length_, window_ : int
        The values in use.
    lags_ : tuple of int
        The lags of the differences.
    short_ : tuple
        Names of the series that are too short for training.

    Notes
    -----
    Each feature, and each series after differencing, is standardized by its training part; nothing uses later values.
    Errors are measured in standard deviations of their series, and their quantiles are those of all series together.

    A series of a panel that is too short for a window and its target is not trained on (``fit`` warns), but it is
    forecast by the model of the other series, which then reads as many steps as there are. A window short enough for
    such a series could hide the season of all the others.

    Examples
    --------
    >>> y = np.sin(np.arange(120) * 2 * np.pi / 12)
    >>> forecaster = GRUForecaster(horizon=3, season_length=12, hidden_size=8, epochs=2, random_state=0).fit(y)
    >>> forecaster.predict().shape, forecaster.predict_interval(coverage=0.8).columns.tolist()
    ((3,), ['lower', 'forecast', 'upper'])
    """

    def fit(self, y: Any, X: Any = None) -> Self:
        """Fit the model to one or many series.

        Parameters
        ----------
        y : array, list, Series or DataFrame
            One series (N,): an array, list or pandas Series. Several: an array or DataFrame with one column per
            series, a list of arrays, or the long form, a DataFrame with the columns unique_id, ds, y and any features.
            An index must consist of dates, periods or integers, sorted and regular.
        X : array or DataFrame (N, F), optional
            Features that are known for every step, including the steps to forecast; the same for all series.

        Returns
        -------
        self

        Raises
        ------
        InputError
            If the parameters or the data are invalid, for instance if all series are too short.

        Warns
        -----
        UserWarning
            If some series are too short for training, or if there are too few steps for intervals.

        Notes
        -----
        If fitting fails or is interrupted, the forecaster keeps its previous state.
        """
        for message in self._learn(Panel.read(y, X, fill=self.fill)):
            warnings.warn(message, stacklevel=2)
        if self.verbose:
            print(self.summary())
        return self

    def predict(self, horizon: int | None = None, X: Any = None, *, y: Any = None, past_X: Any = None) -> Any:
        """Forecast the expected values of the next steps.

        Parameters
        ----------
        horizon : int, optional
            Steps to forecast; None: the ``horizon`` of the constructor.
        X : array or DataFrame (h, F), optional
            The features of these steps; in the long form, a DataFrame with unique_id, ds and the features.
        y : optional
            Another history to continue, in any form that :meth:`fit` accepts; None: the y of ``fit``.
        past_X : optional
            The features of the steps of ``y``.

        Returns
        -------
        array or Series (h,), array or DataFrame (h, series), or the long form
            In the form of y, with its index continued.

        Raises
        ------
        InputError
            If the features do not match those of ``fit``, if a history is too short, or if strategy "direct" is asked
            for more steps than its horizon.
        """
        panel, horizon = self._history(y, past_X), self._checked_horizon(horizon)
        forecasts = self._forecasts(panel, panel.ahead(X, horizon), horizon)
        return panel.answer([{"forecast": row} for row in forecasts])

    def predict_interval(
        self, horizon: int | None = None, X: Any = None, *, y: Any = None, past_X: Any = None, coverage: float = 0.8
    ) -> pd.DataFrame:
        """Forecast the next steps with intervals.

        Parameters
        ----------
        horizon : int, optional
            Steps to forecast, at most the ``horizon`` of the constructor, which is the default.
        X, y, past_X
            As for :meth:`predict`.
        coverage : float
            The probability that a value lies in its interval, between 0 and 1.

        Returns
        -------
        DataFrame
            The columns lower, forecast and upper; for several series under each series' name, and in the long form
            after unique_id and ds.

        Raises
        ------
        InputError
            As :meth:`predict`, and if too few forecasts were held out for this coverage; the message says how many
            observations would be enough.
        """
        panel, horizon = self._history(y, past_X), self._checked_horizon(horizon)
        forecasts = self._forecasts(panel, panel.ahead(X, horizon), horizon)
        halves = self._halves(panel.series, horizon, coverage)
        frame: pd.DataFrame = panel.answer(
            [
                {"lower": row - half, "forecast": row, "upper": row + half}
                for row, half in zip(forecasts, halves, strict=True)
            ]
        )
        return frame

    def score(self, y: Any, X: Any = None, *, coverage: float = 0.8) -> Score:
        """Score the forecast of the steps that follow the fitted series.

        Parameters
        ----------
        y : array, list, Series or DataFrame
            The actual values, in the form of the y of ``fit``; at most ``horizon`` steps if intervals are calibrated.
        X : optional
            The features of these steps, as for :meth:`predict`.
        coverage : float
            The coverage of the intervals that are scored.

        Returns
        -------
        Score
            A named tuple of mae, mase, seasonal_naive and coverage, averaged over the series;
            see :class:`headgate.sequences.windows.Score`.

        Raises
        ------
        InputError
            If y does not have the series of ``fit``, or does not start where they end.
        """
        check_is_fitted(self, "regressor_")
        panel = Panel.read(y, fill=self.fill, gaps=True)
        names = [s.name for s in self.panel_.series]
        actual = {s.name: s for s in panel.series}
        if len(names) == 1 and len(actual) == 1:  # the name of a single series may differ
            actual = {names[0]: panel.series[0]}
        if actual.keys() != set(names):
            raise InputError(f"y must have the {len(names)} series of fit ({_few(names)}), got {_few(list(actual))}")
        horizon = len(actual[names[0]])
        for before in self.panel_.series:
            after = actual[before.name]
            if len(after) != horizon:
                raise InputError(
                    f"y must have the same number of steps for every series, got {horizon} and {len(after)}"
                )
            if panel.form not in ("array", "arrays") and after.index[0] != before.future(1)[0]:
                raise InputError(
                    f"y must start right after the series of fit, at {before.future(1)[0]}, got {after.index[0]}"
                )
        forecasts = self._forecasts(self.panel_, self.panel_.ahead(X, horizon), horizon)
        halves = self._halves_if_any(self.panel_.series, horizon, coverage)
        return mean_score(
            [
                score_forecast(before.values, row, actual[before.name].values, self.season_length_, half)
                for before, row, half in zip(self.panel_.series, forecasts, halves, strict=True)
            ]
        )

    def backtest(
        self, folds: int = 5, y: Any = None, X: Any = None, *, horizon: int | None = None, coverage: float = 0.8
    ) -> pd.DataFrame:
        """Evaluate forecasts of the last ``folds`` stretches of ``horizon`` steps, each by a model fitted before it.

        Parameters
        ----------
        folds : int
            Number of stretches, and of fits.
        y, X : optional
            Series and features as for :meth:`fit`; None: those of ``fit``.
        horizon : int, optional
            Steps of a stretch; None: the ``horizon`` of the constructor.
        coverage : float
            The coverage of the intervals that are scored.

        Returns
        -------
        DataFrame
            One row per fold and series: fold, series, origin (the last known step), and the fields of
            :class:`headgate.sequences.windows.Score`.

        Raises
        ------
        InputError
            As :meth:`fit`, and if the series are too short for so long a test.

        Warns
        -----
        UserWarning
            If some folds have too few earlier steps for intervals, or if some series begin too late for some folds.

        Notes
        -----
        The forecaster itself does not change.
        """
        panel = self._panel_to_test(y, X)
        horizon = self._checked_horizon(horizon)
        if isinstance(folds, bool) or not isinstance(folds, int | np.integer) or folds < 1:  # type: ignore[redundant-expr]
            raise InputError(f"folds must be a whole number, at least 1, got {folds!r}")
        rows: list[dict[str, Any]] = []
        uncalibrated, absent = 0, Counter[str]()
        for fold in range(folds):
            left = (folds - fold) * horizon
            begun = [s for s in panel.series if len(s) > left]
            if not begun:
                longest = max(panel.series, key=len)
                raise InputError(
                    f"{folds} folds of {horizon} steps need more than {folds * horizon} steps, "
                    f"{longest.called} has {len(longest)}: use fewer folds or a smaller horizon"
                )
            absent.update(s.called for s in panel.series if len(s) <= left)
            fitted = clone(self).set_params(verbose=0)
            fitted._learn(replace(panel, series=tuple(s.until(-left) for s in begun)))
            ahead = [s.features[-left : len(s) - left + horizon] for s in begun]
            forecasts = fitted._forecasts(fitted.panel_, ahead, horizon)
            known = fitted.panel_.series
            halves = fitted._halves_if_any(known, horizon, coverage)
            uncalibrated += bool(self.calibration) and not fitted.has_intervals_
            for before, row, half, s in zip(known, forecasts, halves, begun, strict=True):
                actual = s.seen[len(s) - left : len(s) - left + horizon]
                score = score_forecast(before.values, row, actual, fitted.season_length_, half)
                rows.append({"fold": fold, "series": s.name, "origin": before.index[-1], **score._asdict()})
        if uncalibrated:
            warnings.warn(
                f"{uncalibrated} of {folds} folds have too few earlier steps for intervals: their coverage is nan",
                stacklevel=2,
            )
        if absent:
            warnings.warn(
                f"{len(absent)} of {len(panel.series)} series begin too late for some of the folds and are left out "
                f"of those ({_few(list(absent), str)})",
                stacklevel=2,
            )
        return pd.DataFrame(rows)

    def plot(
        self,
        horizon: int | None = None,
        X: Any = None,
        *,
        y: Any = None,
        past_X: Any = None,
        actual: Any = None,
        coverage: float = 0.8,
        series: Sequence[Any] | None = None,
        path: str | os.PathLike[str] | None = None,
    ) -> Any:
        """Draw the end of the history, the forecast, and its interval if there is one.

        Parameters
        ----------
        horizon, X, y, past_X
            As for :meth:`predict`.
        actual : optional
            The actual values, in the form of y, to draw along with the forecast.
        coverage : float
            The coverage of the interval.
        series : sequence, optional
            Names of the series to draw; None: the first four.
        path : str or path, optional
            A file to write the picture to; its suffix is the format: .png, .svg, .pdf, .jpg, ...

        Returns
        -------
        matplotlib.figure.Figure
            A notebook displays it.

        Raises
        ------
        InputError
            As :meth:`predict`, and for an unknown series or picture format.
        """
        panel, horizon = self._history(y, past_X), self._checked_horizon(horizon)
        forecasts = self._forecasts(panel, panel.ahead(X, horizon), horizon)
        halves = self._halves_if_any(panel.series, horizon, coverage)
        outcomes = {} if actual is None else {s.name: s for s in Panel.read(actual, fill=self.fill, gaps=True).series}
        names = [s.name for s in panel.series]
        drawn = names[:4] if series is None else list(series)
        if not drawn:
            raise InputError(
                f"series must name at least one series to draw, got none: omit it, or name some of {_few(names)}"
            )
        if unknown := [name for name in drawn if name not in names]:
            raise InputError(f"there is no series {unknown[0]!r} to draw: name some of {_few(names)}")
        if len(names) == 1 and len(outcomes) == 1:  # the name of a single series may differ
            outcomes = dict(zip(names, outcomes.values(), strict=True))
        charts = [
            (before, row, half, outcomes.get(before.name))
            for before, row, half in zip(panel.series, forecasts, halves, strict=True)
            if before.name in drawn
        ]
        return draw_forecast(charts, coverage=coverage, path=path)

    def summary(self) -> str:
        """Describe the fitted model, and compare its score over the part held out with the seasonal-naive forecast's.

        Returns
        -------
        str
            One line, or three if there is a score.
        """
        check_is_fitted(self, "regressor_")
        series = self.panel_.series
        steps = sum(len(s) for s in series)
        inputs = f"differences over {', '.join(map(str, self.lags_))}" if self.lags_ else "values"
        lines = [
            f"{len(series)} series, {steps:,} steps, season {self.season_length_}; GRU of {self.hidden_size} units "
            f"over {self.window_} {inputs}, {self.strategy}, horizon {self.horizon}"
        ]
        if self.tail_score_ is not None:
            ours, naive = self.tail_score_.mase, self.tail_score_.seasonal_naive
            better = f"{1 - ours / naive:.0%} better" if ours < naive else "NOT better"
            lines += [
                f"held-out tail, {len(self.errors_):,} forecasts: mean absolute scaled error {ours:.3f}, "
                f"seasonal naive {naive:.3f}",
                f"that is {better} than repeating the last season",
            ]
        return "\n".join(lines)

    def to_state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the fitted state as JSON values and arrays."""
        check_is_fitted(self, "regressor_")
        names = [s.name for s in self.panel_.series]
        panel, arrays = self.panel_.to_state()
        regressor, more = self.regressor_.to_state()
        arrays |= {f"regressor.{name}": value for name, value in more.items()}
        arrays["errors_"] = self.errors_
        arrays |= {"features.mean": self.features_scale_.mean, "features.deviation": self.features_scale_.deviation}
        arrays["means"] = np.array([self.scales_[name].mean for name in names])
        arrays["deviations"] = np.array([self.scales_[name].deviation for name in names])
        facts = {
            **{name: getattr(self, name) for name in self._FACTS},
            "short_": list(self.short_),
            "tail_score_": None if self.tail_score_ is None else list(self.tail_score_),
            "panel": panel,
            "regressor": regressor,
        }
        return facts, arrays

    @classmethod
    def from_state(
        cls, parameters: Mapping[str, Any], facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
    ) -> Self:
        """Return a fitted forecaster with these parameters and the state that :meth:`to_state` returned."""
        self = cls(**parameters)
        for name in cls._FACTS:
            setattr(self, name, facts[name])
        self.lags_ = tuple(self.lags_)
        self.short_ = tuple(facts.get("short_", ()))  # absent from early files: short series were an error
        score = facts["tail_score_"]
        self.tail_score_ = None if score is None else Score(*score)
        self.panel_ = Panel.from_state(facts["panel"], arrays)
        self.errors_ = arrays["errors_"]
        self.features_scale_ = Scale(arrays["features.mean"], arrays["features.deviation"])
        columns = (arrays[name] for name in ("means", "deviations"))
        scales = [Scale(mean, deviation) for mean, deviation in zip(*columns, strict=True)]
        self.scales_ = dict(zip([s.name for s in self.panel_.series], scales, strict=True))
        inner = {k.removeprefix("regressor."): v for k, v in arrays.items() if k.startswith("regressor.")}
        self.regressor_ = GRURegressor.from_state(self._regressor().get_params(), facts["regressor"], inner)
        return self

    _FACTS = ("season_length_", "window_", "lags_")

    # Learning

    @property
    def has_intervals_(self) -> bool:
        """True if enough forecasts were held out for an 80 % interval."""
        check_is_fitted(self, "regressor_")
        return observed(self.errors_) >= FEWEST

    def _learn(self, panel: Panel) -> list[str]:
        """Fit to the panel and return warnings."""
        check_parameters(self)
        horizon, share = self._checked_horizon(None), share_or_auto("calibration", self.calibration)
        fitted = clone(self)  # so that a failed fit changes nothing
        lengths = [len(s) for s in panel.series]
        lags = choose_lags(self.difference, [])  # "auto" is decided below, and is at most 1
        S = 1 if self.difference is not None and isinstance(self.difference, str) else sum(lags)
        automatic = isinstance(self.season_length, str) and self.season_length == "auto"
        season = steps_or_auto("season_length", self.season_length, _season(panel, S) if automatic else 1)
        window = steps_or_auto("window", self.window, 0)
        k = horizon if self.strategy == "direct" else 1
        tails = choose_tails(lengths, horizon=horizon, reach=self._reach(S, window, season), calibration=share)
        fitted.panel_, fitted.season_length_ = panel, season
        fitted.lags_ = choose_lags(
            self.difference, [s.until(len(s) - tail).values for s, tail in zip(panel.series, tails, strict=True)]
        )
        S, left = sum(fitted.lags_), [n - tail for n, tail in zip(lengths, tails, strict=True)]
        window = fitted.window_ = window or choose_window(left, season=season, lags=S, k=k)
        need = S + max(window + k, season + 1)
        short = [s for s, n in zip(panel.series, left, strict=True) if n < need]
        if len(short) == len(lengths):
            raise InputError(self._too_short(short, tails, need, window, season))
        if hopeless := next((s for s in short if len(s) < max(S, 1)), None):
            raise InputError(
                f"{hopeless.called} has {len(hopeless)} steps, but differences over "
                f"{', '.join(map(str, fitted.lags_))} need {S}: remove it, or give smaller lags"
            )
        fitted.short_ = tuple(s.name for s in short)
        tails = [tail if n >= need else 0 for tail, n in zip(tails, left, strict=True)]
        learned = [s.until(len(s) - tail) for s, tail, n in zip(panel.series, tails, left, strict=True) if n >= need]
        fitted._train(self._regressor(), learned, short)
        fitted.errors_, fitted.tail_score_ = fitted._calibrated(tails, horizon)
        if share is None and any(tail > -(-n // 5) for tail, n in zip(tails, lengths, strict=True)):
            whole = [s for s, n in zip(panel.series, left, strict=True) if n >= need]
            fitted._train(self._regressor(), whole, short)
        self.__dict__.update({name: value for name, value in vars(fitted).items() if name.endswith("_")})
        messages = []
        if short:
            messages.append(
                f"{len(short)} of {len(lengths)} series are too short for training, with fewer than {need} steps "
                f"({_few(fitted.short_)}): they are forecast by the model of the other series"
            )
        if share != 0 and not fitted.has_intervals_:
            messages.append(f"the forecasts come without intervals: {fitted._remedy(least_errors(0.8))}")
        return messages

    def _train(self, regressor: GRURegressor, learned: Sequence[Series], short: Sequence[Series]) -> None:
        """Fit the scales of all series, and the regressor to all windows of those that are long enough."""
        lags, w, k = self.lags_, self.window_, self.horizon if self.strategy == "direct" else 1
        features = np.concatenate([s.features for s in learned])
        self.features_scale_ = Scale.of(features) if features.shape[1] else Scale.none(0)
        scales = {s.name: _scale_of(s, lags) for s in (*learned, *short)}
        self.scales_ = {s.name: scales[s.name] for s in self.panel_.series}
        inputs, targets = [], []
        for s in learned:
            z = scales[s.name].apply(differenced(s.values, lags))
            features = self.features_scale_.apply(s.features[sum(lags) :])
            inputs.append(windows(stretches(z, w)[: len(z) - w - k + 1], features, k))
            targets.append(stretches(z[w:], k))
        with warnings.catch_warnings():  # for a random walk, the mean is the best prediction of the differences
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.regressor_ = regressor.fit(np.concatenate(inputs), np.concatenate(targets))

    def _reach(self, S: int, window: int, season: int) -> int:
        """Return the steps that training needs at least: those of a window and its target.

        An automatic window counts as two seasons and at least eight steps. With less to train on, the forecasts used
        for calibration would be so much worse than the final model's that their errors mean nothing.
        """
        k = self._checked_horizon(None) if self.strategy == "direct" else 1
        return S + max((window or max(2 * season, 8)) + k, season + 1)

    def _too_short(self, short: list[Series], tails: list[int], need: int, window: int, season: int) -> str:
        """Return the error message for series that are all too short for training."""
        longest = max(range(len(short)), key=lambda i: len(short[i]))
        one, tail = short[longest], tails[longest]
        held_out = f", of which calibration={self.calibration:g} holds out {tail}" if tail else ""
        return (
            f"{one.called} has {len(one)} step{'s' * (len(one) != 1)}{held_out}; window={window}, "
            f"season_length={season} and strategy={self.strategy} need {need} for training: give a longer "
            "series, or a smaller window, horizon or calibration"
        )

    def _remedy(self, errors: int) -> str:
        """Say how to hold out this many forecasts, as the end of a message."""
        if not self.calibration:
            return 'fit with calibration="auto" instead of 0'
        share = share_or_auto("calibration", self.calibration)
        lengths, horizon = [len(s) for s in self.panel_.series], self._checked_horizon(None)
        window = steps_or_auto("window", self.window, 0)
        season = steps_or_auto("season_length", self.season_length, season_of(self.panel_.series[0].index))
        reach = self._reach(sum(self.lags_), window, season)

        def held_out(n: int) -> int:
            tail = choose_tails([n], horizon=horizon, reach=reach, calibration=share)[0]
            return tail - horizon + 1 if tail and n - tail >= reach else 0

        if held_out(max(lengths)) >= errors:
            return "too few of the steps held out were observed: a longer series with fewer gaps would do"
        held = horizon + errors - 2
        n = max(max(lengths), int(held / share) if share else 5 * held if errors > WANTED else 0)
        while held_out(n) < errors:
            n += 1
        what = "y" if len(lengths) == 1 else f"the longest of {len(lengths)} series"
        more = "" if share is None else ', or calibration="auto"'
        return f"{what} has {max(lengths)} steps, {n} would do{more}; a smaller horizon needs fewer"

    def _regressor(self) -> GRURegressor:
        shared = GRURegressor().get_params().keys() & self.get_params().keys()
        return GRURegressor(**{name: getattr(self, name) for name in shared}, standardize=False)

    def _calibrated(self, tails: list[int], horizon: int) -> tuple[np.ndarray, Score | None]:
        """Forecast from every origin in the tails.

        Return the absolute errors (n, h) in standard deviations, sorted for each step ahead with NaN last, and a score.
        """
        histories, ahead, actual = [], [], []
        learned = [s.until(len(s) - tail).values for s, tail in zip(self.panel_.series, tails, strict=True)]
        vary = [unvarying(values, self.lags_) is None for values in learned]
        for s, tail, varies in zip(self.panel_.series, tails, vary, strict=True):
            if not varies and any(vary):  # without a standard deviation its errors have no unit
                continue
            for origin in range(len(s) - tail, len(s) - horizon + 1) if tail else ():
                histories.append(s.until(origin))
                ahead.append(s.features[origin : origin + horizon])
                actual.append(s.seen[origin : origin + horizon])
        if not histories:
            return np.empty((0, horizon)), None
        forecasts = self._forecasts(Panel("arrays", tuple(histories)), ahead, horizon)
        deviations = np.array([self._scale(s).deviation for s in histories])
        errors = np.abs(forecasts - np.stack(actual)) / deviations[:, None]
        season = self.season_length_
        scores = [score_forecast(s.values, f, a, season) for s, f, a in zip(histories, forecasts, actual, strict=True)]
        return np.sort(errors, 0), mean_score(scores)  # NaN: the step was not observed

    # Forecasting

    def _forecasts(self, panel: Panel, ahead: Sequence[np.ndarray], horizon: int) -> np.ndarray:
        """Return forecasts (series, h), given the features (h, F) of the steps ahead of each series."""
        w, S = self.window_, sum(self.lags_)
        k = self.horizon if self.strategy == "direct" else 1
        if k > 1 and horizon > k:
            raise InputError(
                f'strategy="direct" forecasts at most {k} steps, got {horizon}: fit with horizon={horizon}'
            )
        for s in panel.series:
            least = max(S, 1) if s.name in self.short_ else S + w
            if len(s) < least:
                raise InputError(f"{s.called} has {len(s)} steps, but a forecast needs {least}: give a longer history")
        looks = np.array([max(1, min(w, len(s) - S)) for s in panel.series])
        forecasts = np.empty((len(looks), horizon))
        for look in sorted(set(looks.tolist())):  # a series shorter than a window is read as a whole
            group = np.flatnonzero(looks == look).tolist()
            series, features = zip(*((panel.series[i], ahead[i]) for i in group), strict=True)
            forecasts[group] = self._continued(series, features, horizon, look)
        return forecasts

    def _continued(self, series: Sequence[Series], ahead: Sequence[np.ndarray], horizon: int, w: int) -> np.ndarray:
        """Return forecasts (series, h) from the last w differences of each series."""
        lags, S = self.lags_, sum(self.lags_)
        k = self.horizon if self.strategy == "direct" else 1
        scales = [self._scale(s) for s in series]
        ends = [s.values[-(S + w) :] for s in series]
        z = np.zeros((len(series), w))  # (series, w); 0, the mean, for a series without any difference
        for row, scale, end in zip(z, scales, ends, strict=True):
            row[w - (len(end) - S) :] = scale.apply(differenced(end, lags))
        known = [
            self.features_scale_.apply(np.concatenate([s.features[len(s) - w :], f]))
            for s, f in zip(series, ahead, strict=True)
        ]
        if k > horizon:  # direct: the last features stand for the steps beyond the horizon
            known = [np.concatenate([f, np.repeat(f[-1:], k - horizon, 0)]) for f in known]
        for step in range(0, horizon, k):
            features = np.stack([f[step : step + w + k] for f in known])  # (series, w + k, F)
            inputs = np.concatenate([windows(z[i : i + 1, -w:], features[i], k) for i in range(len(z))])
            z = np.concatenate([z, self.regressor_.predict(inputs).reshape(len(z), -1)], 1)
        forecasts = np.stack([scale.undo(row) for scale, row in zip(scales, z[:, w : w + horizon], strict=True)])
        for row, s in zip(forecasts, series, strict=True):
            constant = unvarying(s.values, lags)
            if constant is not None:
                row[:] = constant
        return summed(forecasts, np.stack([end[len(end) - S :] if w > len(end) - S else end[w:] for end in ends]), lags)

    def _history(self, y: Any, X: Any = None) -> Panel:
        check_is_fitted(self, "regressor_")
        panel: Panel = self.panel_
        if y is None:
            if X is not None:
                raise InputError("past_X goes with y: give both, or neither to continue the series of fit")
            return panel
        panel = Panel.read(y, X, fill=self.fill)
        if panel.series[0].features.shape[1] != self.panel_.series[0].features.shape[1]:
            raise InputError(
                f"y has {panel.series[0].features.shape[1]} features, the model was fitted with "
                f"{self.panel_.series[0].features.shape[1]}: give them as past_X, or as columns of the long form"
            )
        names, known = panel.feature_names, self.panel_.feature_names
        if names and known and names != known:
            raise InputError(
                f"the features of y are {_few(names)}, the model was fitted with {_few(known)}: put them in that order"
            )
        return replace(panel, feature_names=known or None) if names is None else panel  # without names: in that order

    def _panel_to_test(self, y: Any, X: Any) -> Panel:
        if y is not None:
            return Panel.read(y, X, fill=self.fill)
        if X is not None:
            raise InputError("X goes with y: give both, or neither to test with the series of fit")
        return self._history(None)

    def _scale(self, series: Series) -> Scale:
        """Return the scale of a series: that of fit, or for a new series one computed from all of it."""
        names = list(self.scales_)
        alone = len(names) == 1 and (series.name is None or names[0] is None)  # unnamed
        if alone or series.name in self.scales_:
            fitted: Scale = self.scales_[names[0] if alone else series.name]
            return fitted
        return _scale_of(series, self.lags_)

    def _checked_horizon(self, horizon: int | None) -> int:
        horizon = self.horizon if horizon is None else horizon
        if isinstance(horizon, bool) or not isinstance(horizon, int | np.integer) or horizon < 1:  # type: ignore[redundant-expr]
            raise InputError(f"horizon must be a whole number of steps, at least 1, got {horizon!r}")
        return int(horizon)

    def _halves_if_any(self, series: Sequence[Series], horizon: int, coverage: float) -> Sequence[np.ndarray | None]:
        """Return :meth:`_halves`, or None for each series if there are no intervals."""
        if self.has_intervals_:
            return self._halves(series, horizon, coverage)
        check_coverage(coverage)
        return [None] * len(series)

    def _halves(self, series: Sequence[Series], horizon: int, coverage: float) -> list[np.ndarray]:
        """Return for each series half the width (h,) of the interval at each step ahead: the quantile of the errors."""
        check_coverage(coverage)
        least = least_errors(coverage)
        remedy = self._remedy(least) if observed(self.errors_) < least else ""
        widths = quantiles(self.errors_, horizon, coverage, remedy)
        return [widths * (self._scale(s).deviation if unvarying(s.values, self.lags_) is None else 0.0) for s in series]


def _scale_of(series: Series, lags: Sequence[int]) -> Scale:
    """Return the mean and standard deviation of a series' differences.

    One or two differences do not determine a mean, so it is assumed to be 0; without any, the deviation is 1.
    """
    z = differenced(series.values, lags)
    if lags and len(z) < 3:
        return Scale(np.zeros(()), np.sqrt(np.square(z).mean(keepdims=True))[0] if z.any() else np.ones(()))
    scale = Scale.of(z[:, None])
    return Scale(scale.mean[0], scale.deviation[0])


def _season(panel: Panel, lags: int) -> int:
    """Return the season that the dates of all series suggest, in steps; 1 if the (upper) median series is shorter.

    Raises InputError if the series have different seasons.
    """
    first, season = panel.series[0], season_of(panel.series[0].index)
    if other := next((s for s in panel.series if season_of(s.index) != season), None):
        raise InputError(
            f"by their dates, {first.called} has a season of {season} steps and {other.called} one of "
            f"{season_of(other.index)}: forecast them separately, or give season_length"
        )
    n = sorted(map(len, panel.series))[len(panel.series) // 2]
    return season if n > lags + season else 1


def _few(names: Sequence[Any], spelled: Callable[[Any], str] = repr) -> str:
    return ", ".join(map(spelled, names[:5])) + (", ..." if len(names) > 5 else "")
