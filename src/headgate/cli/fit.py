"""``headgate fit``: train a regressor, classifier or forecaster on a table, and save it in a run directory."""

import argparse
import contextlib
import dataclasses
import io
import json
import shlex
import signal
import sys
import tempfile
import typing
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headgate.cli.flags import add_setting, command, shown
from headgate.console import tell
from headgate.errors import InputError, one_line
from headgate.runs.find import default_directory
from headgate.runs.run_directory import is_run
from headgate.settings.estimators import ClassifierParameters, ForecastParameters
from headgate.storage.files import format_json
from headgate.storage.lock import in_use

if typing.TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from headgate.runs.estimator_directory import Place
    from headgate.sequences.table import Roles

COMMON = ("epochs", "hidden_size", "num_layers", "dropout", "learning_rate")  # settings
NOT_FLAGS = ("warm_start", "verbose", "random_state", "horizon")  # these have their own


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data",
        nargs="?",
        metavar="DATA",
        help="CSV with any usual separator, compressed or not, or Parquet; '-': CSV from standard input",
    )
    parser.add_argument(
        "--target",
        metavar="COLUMN",
        help="column to predict: numbers or classes; rows without a value are left out, for predict to fill in",
    )
    parser.add_argument("--time", metavar="COLUMN", help="column that orders the rows: dates or whole numbers")
    parser.add_argument(
        "--group",
        metavar="COLUMN",
        help="column with one value per sequence (or series); each row must have one",
    )
    parser.add_argument(
        "--features", nargs="+", metavar="COLUMN", help="columns to predict from (all others; a forecast: none)"
    )
    parser.add_argument("--horizon", type=int, metavar="N", help="forecast the target N steps ahead")
    parser.add_argument("-o", "--out", metavar="DIR", help="the run directory (runs/NAME, numbered if that exists)")
    parser.add_argument("-s", "--seed", type=int, default=0, metavar="N", help="random seed (0)")
    samples, forecasts = _flags(ClassifierParameters), _flags(ForecastParameters)
    for name in COMMON:
        _add_setting(parser, name, samples.get(name), forecasts.get(name))
    parser.add_argument("--overwrite", action="store_true", help="replace the run in --out")
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="print errors only; the run directory holds the rest"
    )
    more = parser.add_argument_group("options of the table and the test")
    more.add_argument(
        "--frequency",
        metavar="FREQ",
        help="for a forecast: interval of the dates as pandas spells it: D, MS, h, ...; dates that the table lacks are "
        "missing values",
    )
    more.add_argument(
        "--task",
        choices=("auto", "regression", "classification"),
        default="auto",
        help="auto: regression if the target holds numbers (auto)",
    )
    more.add_argument(
        "--test",
        type=float,
        metavar="SHARE",
        help="fraction of the samples held out to test the model; 0: none (0.2)",
    )
    more.add_argument("--backtest", type=int, metavar="N", help="test a forecast in N folds (0)")
    both = parser.add_argument_group("more settings")
    of_samples = parser.add_argument_group("settings of regression and classification")
    of_forecasts = parser.add_argument_group("settings of forecasts (with --horizon)")
    for name in {**samples, **forecasts}:
        if name not in COMMON:
            group = both if name in samples and name in forecasts else of_samples if name in samples else of_forecasts
            _add_setting(group, name, samples.get(name), forecasts.get(name))


def _flags(kind: type) -> dict[str, Any]:
    return {f.name: f for f in dataclasses.fields(kind) if f.name not in NOT_FLAGS}


def _add_setting(group: Any, name: str, of_samples: Any, of_forecasts: Any) -> None:
    """Add the flag of a parameter of sequence estimators, of forecasters or of both."""
    f, default = of_samples or of_forecasts, ""
    if of_samples and of_forecasts and of_samples.default != of_forecasts.default:
        default = f"{shown(of_samples.default)}; for a forecast {shown(of_forecasts.default)}"
    add_setting(group, f, f.type, default=default, several=name == "difference")


def run(options: argparse.Namespace) -> int:
    """Fit the estimator that the flags ask for and print how good it is."""
    with _Signals() as signals, contextlib.redirect_stdout(_Output(sys.stdout)):
        try:
            _run(options, signals)
        except KeyboardInterrupt:
            tell("interrupted: nothing was written")
            return 128 + (signals.number or signal.SIGINT)
    return 128 + signals.number if signals.number else 0


def _run(options: argparse.Namespace, signals: "_Signals") -> None:
    import torch  # noqa: F401 - first, so that the message names torch if it is missing

    from headgate.sequences import table, table_file

    say = (lambda text: None) if options.quiet else print
    if not 0 <= options.seed < 2**32:
        raise InputError(f"--seed must be at least 0 and below 2**32, got {options.seed}")
    if not options.data or not options.target:
        raise InputError("give a table and the column to predict: headgate fit DATA --target COLUMN")
    forecast = options.horizon is not None
    parameters = _given(options, forecast)
    frame = table_file.read_table(options.data, say=say)
    roles = table.assign_roles(
        frame,
        options.target,
        time=options.time,
        group=options.group,
        features=options.features,
        forecast=forecast,
        task=options.task,
        frequency=options.frequency,
        say=say,
    )
    work = (_fit_series if forecast else _fit_samples)(frame, roles, parameters, options, say)
    try:
        out = work.finish(options, signals, say)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "alloc" not in str(error):
            raise
        raise InputError(
            f"there is not enough memory for this model ({one_line(error)[:80]}): use a smaller --hidden-size, "
            "--batch-size or table"
        ) from None
    if signals.number:
        epochs = len(work.history())
        tell(f"interrupted in epoch {epochs}: the model so far is in {out}")
    say(f"run    {out}")
    data = "" if forecast else " NEW.csv"
    say(f"predict:\n  {command()} predict {shlex.quote(str(out))}{data}")


def _given(options: argparse.Namespace, forecast: bool) -> dict[str, Any]:
    """Return the parameters given as flags; raise InputError for a flag that has no effect in this task."""
    samples, forecasts = _flags(ClassifierParameters), _flags(ForecastParameters)
    parameters = {name: getattr(options, name) for name in {**samples, **forecasts} if hasattr(options, name)}
    known = forecasts if forecast else samples
    if other := next((name for name in parameters if name not in known), None):
        what = "cannot be used with a forecast: omit it" if forecast else "is for forecasts: give --horizon, or omit it"
        raise InputError(f"--{other.replace('_', '-')} {what}")
    if forecast and options.test is not None:
        raise InputError(
            "--test cannot be used with a forecast: test it with --backtest, or hold out the end of its series with "
            "--calibration"
        )
    if not forecast and options.backtest is not None:
        raise InputError("--backtest is for forecasts: give --horizon, or omit it")
    if options.overwrite and options.out is None:
        raise InputError("--overwrite replaces the run in --out: give --out, or omit --overwrite to create a new run")
    if not forecast and not parameters.get("early_stopping", samples["early_stopping"].default):
        for name in ("validation_fraction", "patience"):
            if name in parameters:
                raise InputError(f"--{name.replace('_', '-')} does nothing without --early-stopping: give both")
    if forecast and options.horizon < 1:
        raise InputError(f"--horizon must be at least 1, got {options.horizon}")
    if "difference" in parameters:
        lags = parameters["difference"]
        parameters["difference"] = "auto" if lags == ["auto"] else tuple(lag for lag in lags if lag != "none")
    return {**parameters, "random_state": options.seed, "verbose": 0 if options.quiet else 1}


@dataclasses.dataclass
class _Work:
    """The work that remains after all checks: train, test, save."""

    estimator: Any
    roles: "Roles"
    numbers: int  # that the estimator stores in addition to its weights
    outputs: int
    train: Callable[[], None]
    test: Callable[[], None]
    history: Callable[[], list[dict[str, float]]]
    pictures: dict[str, Callable[[Path], object]]

    def finish(self, options: argparse.Namespace, signals: "_Signals", say: Any) -> Path:
        """Create the run directory, train, save the estimator there, and return the directory."""
        from headgate.runs import estimator_directory
        from headgate.settings.estimators import check_parameters
        from headgate.training import fitting

        check_parameters(self.estimator)
        size = self._size()
        with contextlib.ExitStack() as stack:
            out, place = _claimed(stack, options, size)
            signals.keep = True
            token = fitting.stopping.set(lambda: signals.number != 0)
            try:
                self.train()
            finally:
                fitting.stopping.reset(token)
            self.test()
            history = self.history()
            more = {
                "data.json": format_json(self.roles.to_json(), indent=1),
                "log.jsonl": "".join(json.dumps(entry) + "\n" for entry in history).encode(),
                **{
                    name: content for name, draw in self.pictures.items() if (content := _drawn(name, draw)) is not None
                },
            }
            facts, arrays = self.estimator.to_state()
            parts = (type(self.estimator).__name__, self.estimator.get_params(), facts, arrays)
            try:
                place.write(*parts, more=more)
            except OSError as error:  # the disk was filled during training, or is gone
                other = Path(tempfile.mkdtemp(prefix=f"headgate-{out.name}-"))
                estimator_directory.write(other, *parts, more=more)
                raise InputError(
                    f"{out} could not be written ({error.strerror}), so the model was saved in {other}: move it to "
                    "a permanent place"
                ) from None
        for name in self.pictures:
            if name in more:
                say(f"{'curve' if name == 'curve.png' else 'chart'}  {out / name}")
        return out

    def _size(self) -> int:
        """Return a generous estimate of the run directory's size in bytes."""
        e = self.estimator
        H, D, F = int(e.hidden_size), 1 + bool(getattr(e, "bidirectional", False)), 1 + len(self.roles.features)
        if getattr(e, "strategy", "") == "direct":
            F, self.outputs = 1 + e.horizon * len(self.roles.features), e.horizon
        weights = sum(3 * D * H * ((D * H if layer else F) + H + 2) for layer in range(int(e.num_layers)))
        epochs = 300 if e.epochs == "auto" else int(e.epochs)  # with one line of the log each
        return 4 * (weights + self.outputs * (D * H + 1)) + 8 * self.numbers + 300 * epochs + 500_000


def _claimed(stack: contextlib.ExitStack, options: argparse.Namespace, size: int) -> "tuple[Path, Place]":
    """Claim the run directory, with room for ``size`` bytes, until the stack is closed."""
    from headgate.runs import estimator_directory

    if options.out:
        return Path(options.out), stack.enter_context(
            estimator_directory.claim(options.out, overwrite=options.overwrite, size=size)
        )
    name = Path(options.data).name.split(".")[0] if options.data != "-" else ""
    name, number = name or "table", 1
    free = default_directory(name)
    while is_run(free) or in_use(free, ".lock"):  # the latter by another fit of the same table
        number += 1
        free = free.with_name(f"{name}-{number}")
    return free, stack.enter_context(estimator_directory.claim(free, overwrite=False, size=size))


def _drawn(name: str, draw: Callable[[Path], object]) -> bytes | None:
    """Return the content of a picture's file; warn and return None if it cannot be drawn: the model matters more."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            draw(Path(folder) / name)
            return (Path(folder) / name).read_bytes()
    except (InputError, OSError) as error:
        warnings.warn(f"{name} was not drawn: {error}", stacklevel=2)
        return None


def _fit_samples(
    frame: "pd.DataFrame", roles: "Roles", parameters: dict[str, Any], options: argparse.Namespace, say: Any
) -> _Work:
    import numpy as np

    from headgate.estimators.sequence import GRUClassifier, GRURegressor
    from headgate.pictures.curve import draw_losses
    from headgate.sequences import table

    frame, left_out = table.answered(frame, roles)
    X, y, _ = table.samples(frame, roles)
    assert y is not None
    lengths = [len(x) for x in X]
    shape = f"{min(lengths)} to {max(lengths)}" if min(lengths) < max(lengths) else f"{max(lengths)}"
    features = len(roles.features) if roles.group else 1
    say(
        f"{options.data}: {len(y):,} sequences of {shape} steps, {features} feature{'s' * (features > 1)}; "
        f"{roles.task} of {roles.target}"
    )
    if left_out:
        say(f"{left_out:,} samples without {roles.target} left out: use headgate predict for them")
    if roles.task == "regression" and "class_weight" in parameters:
        raise InputError(
            f"--class-weight is for classes, but {roles.target} is a number: omit it, or give --task classification"
        )
    if roles.task == "classification":
        y = _classes(y, roles, options.task)
    estimator: Any = (GRURegressor if roles.task == "regression" else GRUClassifier)(**parameters)
    training, test = _split(y, roles.task, 0.2 if options.test is None else options.test, options.seed)

    def score() -> None:
        if not len(test):
            return
        if roles.task == "regression":
            if len(test) < 2:
                error = abs(float(estimator.predict(_take(X, test))[0]) - float(y[test][0]))
                say(f"test   absolute error {error:.3g} on the only held-out sequence")
                return
            value = estimator.score(_take(X, test), y[test])
            say(f"test   R2 {value:.3f} on {len(test)} held-out sequences (predicting their mean: 0)")
            return
        value = estimator.score(_take(X, test), y[test])
        labels, counts = np.unique(y[training], return_counts=True)
        naive = float((y[test] == labels[counts.argmax()]).mean())
        say(
            f"test   accuracy {value:.3f} on {len(test)} held-out sequences (always "
            f"{labels[counts.argmax()]}: {naive:.3f})"
        )

    return _Work(
        estimator,
        roles,
        numbers=4 * features + len(np.unique(y)) * 8 * (roles.task == "classification"),
        outputs=len(np.unique(y)) if roles.task == "classification" else 1,
        train=lambda: estimator.fit(_take(X, training), y[training]),
        test=score,
        history=lambda: estimator.history_,
        pictures={"curve.png": lambda path: draw_losses(estimator.history_, path)},
    )


def _classes(y: "np.ndarray", roles: "Roles", task: str) -> "np.ndarray":
    """Return the classes of the samples, all of one type; raise InputError if they cannot be classes."""
    import numpy as np

    kinds = {type(value) for value in y.tolist()}
    if len(kinds) > 1:
        y = np.array([str(value) for value in y])
    if task == "auto" and kinds == {str} and len(y) > 10 and len(np.unique(y)) == len(y):
        raise InputError(
            f"column {roles.target} holds {len(y)} different texts for {len(y)} sequences ({y[0]!r}, {y[1]!r}, ...), "
            "which cannot be classes: name another --target, write numbers, or give --task classification"
        )
    return y


def _fit_series(
    frame: "pd.DataFrame", roles: "Roles", parameters: dict[str, Any], options: argparse.Namespace, say: Any
) -> _Work:
    from headgate.estimators.forecaster import GRUForecaster
    from headgate.pictures.curve import draw_losses
    from headgate.sequences import table

    if options.horizon >= len(frame):
        raise InputError(
            f"--horizon {options.horizon} needs more than the {len(frame)} rows of {options.data}: give a "
            "smaller horizon or more rows"
        )
    long, ahead = table.series(frame, roles)
    if ahead is not None and len(ahead):
        say(f"{len(ahead):,} rows at the end without {roles.target} left out: use headgate predict for them")
    forecaster = GRUForecaster(horizon=options.horizon, **parameters)

    def train() -> None:
        forecaster.fit(long)

    if options.backtest:
        folds = forecaster.backtest(options.backtest, long)
        say(folds.to_string(index=False, float_format="%.3f"))
        mean = folds[["mase", "seasonal_naive", "coverage"]].mean()
        say(
            f"backtest: mean absolute scaled error {mean['mase']:.3f}, seasonal naive {mean['seasonal_naive']:.3f}"
            + ("" if mean["coverage"] != mean["coverage"] else f"; 80% intervals covered {mean['coverage']:.0%}")
        )
    pictures: dict[str, Callable[[Path], object]] = {
        "curve.png": lambda path: draw_losses(forecaster.regressor_.history_, path)
    }
    if not roles.features:
        pictures["forecast.png"] = lambda path: forecaster.plot(path=path)
    return _Work(
        forecaster,
        roles,
        numbers=len(long) * (4 + len(roles.features) + min(options.horizon, len(long))),
        outputs=1,
        train=train,
        test=lambda: None,
        history=lambda: forecaster.regressor_.history_,
        pictures=pictures,
    )


class _Signals:
    """A context manager in which Ctrl-C, SIGTERM and SIGHUP raise KeyboardInterrupt.

    With ``keep``, the first signal is only recorded, so that the fit can be saved.
    """

    number = 0
    keep = False

    def __enter__(self) -> "_Signals":
        names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
        numbers = [getattr(signal, name) for name in names]
        ignored = [n for n in numbers if signal.getsignal(n) == signal.SIG_IGN]  # by nohup, or in the background
        self._before = {n: signal.signal(n, self._note) for n in numbers if n not in ignored}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        again, self.number = self.number != 0, number
        if again or not self.keep:
            raise KeyboardInterrupt


class _Output(io.TextIOBase):
    """Standard output that becomes silent if it is closed, full, or loses its reader, so that training continues."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def write(self, text: str) -> int:
        self._or_give_up(lambda stream: stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._or_give_up(lambda stream: stream.flush())

    def _or_give_up(self, act: Callable[[Any], object]) -> None:
        if self._stream is None:
            return
        try:
            act(self._stream)
            self._stream.flush()
        except (OSError, ValueError):  # ValueError: it was closed
            self._stream = None


def _split(y: "np.ndarray", task: str, share: float, seed: int) -> "tuple[np.ndarray, np.ndarray]":
    """Return the indices to train on and to test with, both with every class if possible."""
    import numpy as np
    from sklearn.model_selection import train_test_split

    if not 0 <= share < 1:
        raise InputError(f"--test must be at least 0 and below 1, got {share}")
    n, held_out = len(y), round(share * len(y))
    if not held_out:
        return np.arange(n), np.arange(0)
    if n - held_out < 1:
        raise InputError(f"--test {share} leaves none of {n} samples to train on: give a smaller fraction")
    classes = None
    if task == "classification":
        labels, counts = np.unique(y, return_counts=True)
        if counts.min() > 1 and len(labels) <= min(held_out, n - held_out):
            classes = y
    split = train_test_split(np.arange(n), test_size=held_out, random_state=seed, stratify=classes)
    return split[0], split[1]


def _take(X: Any, indices: "np.ndarray") -> Any:
    return [X[i] for i in indices] if isinstance(X, list) else X[indices]
