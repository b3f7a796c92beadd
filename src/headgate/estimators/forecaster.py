"""GRUForecaster: time series continued, with intervals, and the seasonal-naive forecast always beside.

Letters: N steps of a series, w steps of a window, h steps of a forecast, k of them given at once, F features, n origins
(places in time from which a forecast is made).
"""

import os
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from headgate.errors import InputError
from headgate.estimators.sequence import GRURegressor
from headgate.pictures.forecast import draw_forecast
from headgate.runs import estimator_directory
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
class GRUForecaster(ForecastParameters, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Forecasts one series or many (together: one model for all) with a :class:`GRURegressor` over windows of the past.

    horizon        steps of a forecast, for which intervals are calibrated
    window         steps that a forecast looks back; "auto": two seasons, at least 24, but at most half of what is
                   learned from, of the median series
    season_length  steps of a season; "auto": what the dates suggest (12 for months, 7 for days, ...), 1 without dates
                   and where the series are too short to see a season come back
    strategy       "recursive": one step at a time, each put behind the window for the next; "direct": all at once
    difference     what is modelled are differences over these lags, an integer or several; (): the values themselves;
                   "auto": 1 where that makes the standard deviation smaller. Forecasts are in the units of y
    fill           what to do about missing values, see :meth:`fit`
    calibration    share of each series, at its end, that is not trained on but used to find out how far forecasts are
                   off: intervals are split-conformal, quantiles of these errors for each step ahead; 0: no intervals;
                   "auto": a fifth, and more of short series, so that an interval of 90 % has the nine forecasts that it
                   needs, or of 80 % the four. Where that is more than a fifth, the model that forecasts is learned from
                   the whole series once its intervals are found: it is better than they say. Where even four leave
                   less than two seasons to learn from, ``fit`` warns, and ``has_intervals_`` is False
    hidden_size, num_layers, dropout, reset, epochs, batch_size, learning_rate, weight_decay, random_state, verbose,
    device, backend: as of :class:`GRURegressor`

    Each series is standardized (after differencing), and each feature, by what was trained on; nothing looks at what
    comes later. Quantiles of errors, in standard deviations of the series, are those of all series together.

    A series of a panel that is too short for a window and its target is not learned from (``short_`` names them, and
    ``fit`` warns), but forecast all the same, by what was learned from the others: the network reads as many steps as
    there are. To shrink the window for its sake would take the season out of sight of all the others.

    After ``fit``: ``regressor_``, ``tail_score_`` (the :class:`Score` over the part held out), ``has_intervals_``,
    ``season_length_``, ``window_``, ``lags_``, ``short_``.

    >>> y = np.sin(np.arange(120) * 2 * np.pi / 12)
    >>> forecaster = GRUForecaster(horizon=3, season_length=12, hidden_size=8, epochs=2, random_state=0).fit(y)
    >>> forecaster.predict().shape, forecaster.predict_interval(coverage=0.8).columns.tolist()
    ((3,), ['lower', 'forecast', 'upper'])
    """

    def fit(self, y: Any, X: Any = None) -> Self:
        """Learn from series.

        y  (N,) one series: array, list, pandas Series; (N, k) k series: array or DataFrame, a column each; a list of
           arrays; or the long form: a DataFrame with the columns unique_id, ds, y, and features. Missing values are an
           error, unless ``fill`` is "linear", "forward" or a number. An index must be of dates, periods or integers,
           regular and sorted
        X  (N, F) numbers known along with each step, of forecast steps also; of all series alike

        Raises ValueError for what cannot be learned from, and then leaves the forecaster as it was.
        """
        for said in self._learn(Panel.read(y, X, fill=self.fill)):
            warnings.warn(said, stacklevel=2)
        if self.verbose:
            print(self.summary())
        return self

    def predict(self, horizon: int | None = None, X: Any = None, *, y: Any = None, past_X: Any = None) -> Any:
        """The expected values of the next ``horizon`` steps (None: those of the constructor), in the form of y in
        ``fit`` and with its index continued: (h,) array or Series, (h, k) array or DataFrame, or the long form.

        X  the features of these steps, (h, F); in the long form a DataFrame with unique_id, ds and the features
        y  another history to continue, in any form, with past_X the features of its steps; None: that of ``fit``
        """
        panel, horizon = self._history(y, past_X), self._checked_horizon(horizon)
        found = self._forecasts(panel, panel.ahead(X, horizon), horizon)
        return panel.answer([{"forecast": row} for row in found])

    def predict_interval(
        self, horizon: int | None = None, X: Any = None, *, y: Any = None, past_X: Any = None, coverage: float = 0.8
    ) -> pd.DataFrame:
        """Forecasts with the interval that holds a value with probability ``coverage``: columns lower, forecast, upper
        (for many series beside each other under their names; in the long form as columns). Up to the horizon of the
        constructor. Raises InputError where too few forecasts were held out for this coverage, and says how many
        observations would do."""
        panel, horizon = self._history(y, past_X), self._checked_horizon(horizon)
        found = self._forecasts(panel, panel.ahead(X, horizon), horizon)
        halves = self._halves(panel.series, horizon, coverage)
        frame: pd.DataFrame = panel.answer([
            {"lower": row - half, "forecast": row, "upper": row + half} for row, half in zip(found, halves, strict=True)
        ])  # fmt: skip
        return frame

    def score(self, y: Any, X: Any = None, *, coverage: float = 0.8) -> Score:
        """How good the forecast of what follows the fitted series is: ``y`` is what came, in the form of ``fit``, and
        at most as long as ``horizon`` where intervals are calibrated."""
        check_is_fitted(self, "regressor_")
        actual = Panel.read(y, fill=self.fill, gaps=True)
        names = [s.name for s in self.panel_.series]
        came = {s.name: s for s in actual.series}
        if len(names) == 1 and len(came) == 1:  # whatever it is called
            came = {names[0]: actual.series[0]}
        if came.keys() != set(names):
            raise InputError(f"y must have the {len(names)} series of fit ({_few(names)}), got {_few(list(came))}")
        horizon = len(came[names[0]])
        for before in self.panel_.series:
            after = came[before.name]
            if len(after) != horizon:
                raise InputError(f"y must have as many steps of every series, got {horizon} and {len(after)}")
            if actual.form not in ("array", "arrays") and after.index[0] != before.future(1)[0]:
                raise InputError(f"y must go on where fit ended, at {before.future(1)[0]}, got {after.index[0]}")
        found = self._forecasts(self.panel_, self.panel_.ahead(X, horizon), horizon)
        halves = self._halves_if_any(self.panel_.series, horizon, coverage)
        return mean_score([
            score_forecast(before.values, row, came[before.name].values, self.season_length_, half)
            for before, row, half in zip(self.panel_.series, found, halves, strict=True)
        ])  # fmt: skip

    def backtest(
        self, folds: int = 5, y: Any = None, X: Any = None, *, horizon: int | None = None, coverage: float = 0.8
    ) -> pd.DataFrame:
        """Fit anew before each of the last ``folds`` stretches of ``horizon`` steps and forecast it: a row for each
        fold and series, with its last known step (origin) and the numbers of :class:`headgate.sequences.windows.Score`.
        Without y: the series of ``fit``. The forecaster itself stays as it is."""
        panel = self._panel_to_test(y, X)
        horizon = self._checked_horizon(horizon)
        if isinstance(folds, bool) or not isinstance(folds, int | np.integer) or folds < 1:  # type: ignore[redundant-expr]
            raise InputError(f"folds must be a whole number, at least 1, got {folds!r}")
        rows: list[dict[str, Any]] = []
        without, absent = 0, Counter[str]()
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
            found = fitted._forecasts(fitted.panel_, ahead, horizon)
            known = fitted.panel_.series
            halves = fitted._halves_if_any(known, horizon, coverage)
            without += bool(self.calibration) and not fitted.has_intervals_
            for before, row, half, s in zip(known, found, halves, begun, strict=True):
                actual = s.seen[len(s) - left : len(s) - left + horizon]
                score = score_forecast(before.values, row, actual, fitted.season_length_, half)
                rows.append({"fold": fold, "series": s.name, "origin": before.index[-1], **score._asdict()})
        if without:
            warnings.warn(
                f"{without} of {folds} folds have too few steps before them for intervals: their coverage is nan",
                stacklevel=2,
            )
        if absent:
            warnings.warn(
                f"{len(absent)} of {len(panel.series)} series had not begun before some of the folds, and are left out "
                f"of these ({_few(list(absent), str)})",
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
        """Draw the end of the history, the forecast and its interval, if there are intervals; returns matplotlib's
        Figure, which a notebook shows.

        y         another history, as in :meth:`predict`
        actual    what came, drawn beside the forecast, in the form of y
        series    names of the series to draw; None: the first four
        path      a file to write it to, of the format that its name ends with: .png, .svg, .pdf, .jpg, ...
        """
        panel, horizon = self._history(y, past_X), self._checked_horizon(horizon)
        found = self._forecasts(panel, panel.ahead(X, horizon), horizon)
        halves = self._halves_if_any(panel.series, horizon, coverage)
        came = {} if actual is None else {s.name: s for s in Panel.read(actual, fill=self.fill, gaps=True).series}
        names = [s.name for s in panel.series]
        drawn = names[:4] if series is None else list(series)
        if not drawn:
            raise InputError(f"series names none to draw: omit it, or name some of {_few(names)}")
        if unknown := [name for name in drawn if name not in names]:
            raise InputError(f"there is no series {unknown[0]!r} to draw, only {_few(names)}")
        if len(names) == 1 and len(came) == 1:
            came = dict(zip(names, came.values(), strict=True))
        charts = [
            (before, row, half, came.get(before.name))
            for before, row, half in zip(panel.series, found, halves, strict=True)
            if before.name in drawn
        ]
        return draw_forecast(charts, coverage=coverage, path=path)

    def summary(self) -> str:
        """What was fitted and how good it was over the part held out, the seasonal-naive forecast beside."""
        check_is_fitted(self, "regressor_")
        series = self.panel_.series
        steps = sum(len(s) for s in series)
        what = f"differences over {', '.join(map(str, self.lags_))}" if self.lags_ else "values"
        lines = [
            f"{len(series)} series, {steps:,} steps, season {self.season_length_}; GRU of {self.hidden_size} units "
            f"over {self.window_} {what}, {self.strategy}, horizon {self.horizon}"
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

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the forecaster, its history too, into a directory, without pickle; see :meth:`GRURegressor.save`."""
        estimator_directory.write(path, type(self).__name__, self.get_params(), *self.to_state(), overwrite=overwrite)

    def to_state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What was learned, as facts and arrays."""
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
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what :meth:`save` wrote. Raises InputError for what is damaged, or another kind of estimator."""
        found = estimator_directory.read(path, cls.__name__)
        with found.damage():
            self = cls(**found.parameters)
            for name in cls._FACTS:
                setattr(self, name, found.facts[name])
            self.lags_ = tuple(self.lags_)
            self.short_ = tuple(found.facts.get("short_", ()))  # of format 1 without: none was allowed
            score = found.facts["tail_score_"]
            self.tail_score_ = None if score is None else Score(*score)
            self.panel_ = Panel.from_state(found.facts["panel"], found.arrays)
            self.errors_ = found.arrays["errors_"]
            self.features_scale_ = Scale(found.arrays["features.mean"], found.arrays["features.deviation"])
            columns = (found.arrays[name] for name in ("means", "deviations"))
            scales = [Scale(mean, deviation) for mean, deviation in zip(*columns, strict=True)]
            self.scales_ = dict(zip([s.name for s in self.panel_.series], scales, strict=True))
            inner = {k.removeprefix("regressor."): v for k, v in found.arrays.items() if k.startswith("regressor.")}
            self.regressor_ = GRURegressor.from_state(self._regressor().get_params(), found.facts["regressor"], inner)
        return self

    _FACTS = ("season_length_", "window_", "lags_")

    # Learning

    @property
    def has_intervals_(self) -> bool:
        """Whether enough forecasts were held out for an interval of 80 %."""
        check_is_fitted(self, "regressor_")
        return observed(self.errors_) >= FEWEST

    def _learn(self, panel: Panel) -> list[str]:
        """Learn from the panel; what is to be warned of."""
        check_parameters(self)
        horizon, share = self._checked_horizon(None), share_or_auto("calibration", self.calibration)
        fitted = clone(self)  # so that what fails leaves this one as it was
        lengths = [len(s) for s in panel.series]
        lags = choose_lags(self.difference, [])  # those of "auto" are known below: 1 at most
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
        if lost := next((s for s in short if len(s) < max(S, 1)), None):
            raise InputError(
                f"{lost.called} has {len(lost)} steps, differences over {', '.join(map(str, fitted.lags_))} need {S}: "
                "leave it out, or give smaller lags"
            )
        fitted.short_ = tuple(s.name for s in short)
        tails = [tail if n >= need else 0 for tail, n in zip(tails, left, strict=True)]
        learned = [
            s.until(len(s) - tail) for s, tail, n in zip(panel.series, tails, left, strict=True) if n >= need
        ]  # fmt: skip
        fitted._train(self._regressor(), learned, short)
        fitted.errors_, fitted.tail_score_ = fitted._calibrated(tails, horizon)
        if share is None and any(tail > -(-n // 5) for tail, n in zip(tails, lengths, strict=True)):
            whole = [s for s, n in zip(panel.series, left, strict=True) if n >= need]
            fitted._train(self._regressor(), whole, short)
        self.__dict__.update({name: value for name, value in vars(fitted).items() if name.endswith("_")})
        said = []
        if short:
            said.append(
                f"{len(short)} of {len(lengths)} series are too short to be learned from, with fewer than {need} steps "
                f"({_few(fitted.short_)}): they are forecast by what was learned from the others"
            )
        if share != 0 and not fitted.has_intervals_:
            said.append(f"the forecasts come without intervals: {fitted._remedy(least_errors(0.8))}")
        return said

    def _train(self, regressor: GRURegressor, learned: Sequence[Series], short: Sequence[Series]) -> None:
        """Fit scales and the regressor to all windows of these series; those that are too short have scales only."""
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
        with warnings.catch_warnings():  # differences of a random walk have no better prediction than their mean
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.regressor_ = regressor.fit(np.concatenate(inputs), np.concatenate(targets))

    def _reach(self, S: int, window: int, season: int) -> int:
        """The steps that a window and what follows it need; of an automatic window two seasons, or eight steps: with
        less to learn from, the forecasts that calibrate are so much worse that their errors mean nothing."""
        k = self._checked_horizon(None) if self.strategy == "direct" else 1
        return S + max((window or max(2 * season, 8)) + k, season + 1)

    def _too_short(self, short: list[Series], tails: list[int], need: int, window: int, season: int) -> str:
        """What to say where no series can be learned from."""
        longest = max(range(len(short)), key=lambda i: len(short[i]))
        one, tail = short[longest], tails[longest]
        held_out = f", of which calibration={self.calibration:g} holds out {tail}" if tail else ""
        return (
            f"{one.called} has {len(one)} step{'s' * (len(one) != 1)}{held_out}; window={window}, "
            f"season_length={season} and strategy={self.strategy} need {need}{' more' if tail else ''}: give a longer "
            "series, or a smaller window, horizon or calibration"
        )

    def _remedy(self, errors: int) -> str:
        """What to do so that so many forecasts are held out."""
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
        """The absolute errors of forecasts from every origin of the tails, in standard deviations, for each step ahead
        sorted (n, h); and a score."""
        histories, ahead, actual = [], [], []
        learned = [s.until(len(s) - tail).values for s, tail in zip(self.panel_.series, tails, strict=True)]
        vary = [unvarying(values, self.lags_) is None for values in learned]
        for s, tail, varies in zip(self.panel_.series, tails, vary, strict=True):
            if not varies and any(vary):  # it has no standard deviation to measure its errors by
                continue
            for origin in range(len(s) - tail, len(s) - horizon + 1) if tail else ():
                histories.append(s.until(origin))
                ahead.append(s.features[origin : origin + horizon])
                actual.append(s.seen[origin : origin + horizon])
        if not histories:
            return np.empty((0, horizon)), None
        found = self._forecasts(Panel("arrays", tuple(histories)), ahead, horizon)
        deviations = np.array([self._scale(s).deviation for s in histories])
        errors = np.abs(found - np.stack(actual)) / deviations[:, None]
        season = self.season_length_
        scores = [score_forecast(s.values, f, a, season) for s, f, a in zip(histories, found, actual, strict=True)]
        return np.sort(errors, 0), mean_score(scores)  # sorting puts NaN, of steps that were not observed, last

    # Forecasting

    def _forecasts(self, panel: Panel, ahead: Sequence[np.ndarray], horizon: int) -> np.ndarray:
        """(series, h), each series continued: ahead holds the features of the steps to come, (h, F) each."""
        w, S = self.window_, sum(self.lags_)
        k = self.horizon if self.strategy == "direct" else 1
        if k > 1 and horizon > k:
            raise InputError(
                f"strategy direct forecasts {k} steps, and {horizon} were asked for: fit with horizon={horizon}"
            )
        for s in panel.series:
            least = max(S, 1) if s.name in self.short_ else S + w
            if len(s) < least:
                raise InputError(f"{s.called} has {len(s)} steps, a forecast looks back over {least}: give more")
        looks = np.array([max(1, min(w, len(s) - S)) for s in panel.series])
        found = np.empty((len(looks), horizon))
        for look in sorted(set(looks.tolist())):  # series that are too short for a window are read as far as they go
            group = np.flatnonzero(looks == look).tolist()
            series, features = zip(*((panel.series[i], ahead[i]) for i in group), strict=True)
            found[group] = self._continued(series, features, horizon, look)
        return found

    def _continued(self, series: Sequence[Series], ahead: Sequence[np.ndarray], horizon: int, w: int) -> np.ndarray:
        """Some series continued (series, h), looking back over w differences of each."""
        lags, S = self.lags_, sum(self.lags_)
        k = self.horizon if self.strategy == "direct" else 1
        scales = [self._scale(s) for s in series]
        ends = [s.values[-(S + w) :] for s in series]
        z = np.zeros((len(series), w))  # (n, w); of a series without any difference: the mean
        for row, scale, end in zip(z, scales, ends, strict=True):
            row[w - (len(end) - S) :] = scale.apply(differenced(end, lags))
        known = [
            self.features_scale_.apply(np.concatenate([s.features[len(s) - w :], f]))
            for s, f in zip(series, ahead, strict=True)
        ]
        if k > horizon:  # direct: steps that nobody asked for repeat the last features
            known = [np.concatenate([f, np.repeat(f[-1:], k - horizon, 0)]) for f in known]
        for step in range(0, horizon, k):
            features = np.stack([f[step : step + w + k] for f in known])  # (n, w + k, F)
            inputs = np.concatenate([windows(z[i : i + 1, -w:], features[i], k) for i in range(len(z))])
            z = np.concatenate([z, self.regressor_.predict(inputs).reshape(len(z), -1)], 1)
        found = np.stack([scale.undo(row) for scale, row in zip(scales, z[:, w : w + horizon], strict=True)])
        for row, s in zip(found, series, strict=True):
            always = unvarying(s.values, lags)
            if always is not None:  # what has never varied goes on so
                row[:] = always
        return summed(found, np.stack([end[len(end) - S :] if w > len(end) - S else end[w:] for end in ends]), lags)

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
                f"the features of y are {_few(names)}, the model was fitted with {_few(known)}: order them"
            )
        return replace(panel, feature_names=known or None) if names is None else panel  # without names: in that order

    def _panel_to_test(self, y: Any, X: Any) -> Panel:
        if y is not None:
            return Panel.read(y, X, fill=self.fill)
        if X is not None:
            raise InputError("X goes with y: give both, or neither to test with the series of fit")
        return self._history(None)

    def _scale(self, series: Series) -> Scale:
        """How a series is standardized: as when it was fitted, or, a new one, by all that is known of it."""
        names = list(self.scales_)
        alone = len(names) == 1 and (series.name is None or names[0] is None)  # and does not tell its name
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
        """Those of :meth:`_halves`, or None for each series where too little was held out for intervals."""
        if self.has_intervals_:
            return self._halves(series, horizon, coverage)
        check_coverage(coverage)
        return [None] * len(series)

    def _halves(self, series: Sequence[Series], horizon: int, coverage: float) -> list[np.ndarray]:
        """Half the width of the interval at each step ahead, for each series (h,): the errors' quantile."""
        check_coverage(coverage)
        least = least_errors(coverage)
        remedy = self._remedy(least) if observed(self.errors_) < least else ""
        widths = quantiles(self.errors_, horizon, coverage, remedy)
        return [widths * (self._scale(s).deviation if unvarying(s.values, self.lags_) is None else 0.0) for s in series]


def _scale_of(series: Series, lags: Sequence[int]) -> Scale:
    """The mean and standard deviation of a series' differences. Of one or two of them we do not know a mean, and assume
    0; without any, a deviation of 1."""
    z = differenced(series.values, lags)
    if lags and len(z) < 3:
        return Scale(np.zeros(()), np.sqrt(np.square(z).mean(keepdims=True))[0] if z.any() else np.ones(()))
    scale = Scale.of(z[:, None])
    return Scale(scale.mean[0], scale.deviation[0])


def _season(panel: Panel, lags: int) -> int:
    """The steps of a season that the dates of all series suggest; 1 where the (upper) median series is not longer."""
    first, season = panel.series[0], season_of(panel.series[0].index)
    if other := next((s for s in panel.series if season_of(s.index) != season), None):
        raise InputError(
            f"{first.called} has a season of {season} steps and {other.called} one of {season_of(other.index)}, going "
            "by their dates: forecast them apart, or give season_length"
        )
    n = sorted(map(len, panel.series))[len(panel.series) // 2]
    return season if n > lags + season else 1


def _few(names: Sequence[Any], spelled: Callable[[Any], str] = repr) -> str:
    return ", ".join(map(spelled, names[:5])) + (", ..." if len(names) > 5 else "")
