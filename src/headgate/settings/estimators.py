"""The parameters of the estimators, with defaults, help texts and bounds; they define the flags of ``headgate fit``."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from headgate.errors import InputError
from headgate.settings.field import BACKENDS, invalid_values, setting


@dataclass(kw_only=True, repr=False, eq=False)
class NetworkParameters:
    """The parameters that all estimators have in common."""

    hidden_size: int = setting(64, "units per layer", low=1)
    num_layers: int = setting(1, "GRU layers", low=1)
    dropout: float = setting(0.0, "dropout probability between layers and before the linear layer", low=0.0, below=1.0)
    reset: str = setting(
        "after", "reset gate after (as in torch.nn.GRU) or before the matrix product", choices=("after", "before")
    )
    epochs: int = setting(
        "auto",
        "passes over the samples; auto: 100, or more if long sequences would get few updates",
        low=1,
    )
    batch_size: int = setting(32, "samples per step, of similar length", low=1)
    learning_rate: float = setting(0.005, "learning rate of AdamW", above=0.0)
    weight_decay: float = setting(0.0, "weight decay of AdamW", low=0.0)
    random_state: Any = setting(None, "random seed")
    verbose: int = setting(0, "1: print every tenth epoch, 2: every epoch", low=0)
    device: str = setting("cpu", "device to compute on: cpu, cuda, ...")
    backend: str = setting("auto", "implementation of the GRU", choices=BACKENDS)


@dataclass(kw_only=True, repr=False, eq=False)
class SequenceParameters(NetworkParameters):
    """The parameters that GRURegressor and GRUClassifier have in common."""

    bidirectional: bool = setting(False, "read sequences from both ends")
    pool: str = setting("last", "how the states of a sequence are combined", choices=("last", "mean", "max"))
    schedule: str = setting(
        "cosine", "cosine: the learning rate decays to a hundredth over the epochs", choices=("cosine", "constant")
    )
    clip: float = setting(1.0, "maximum gradient norm; 0: no clipping", low=0.0)
    standardize: bool = setting(True, "scale features and targets to mean 0 and deviation 1")
    early_stopping: bool = setting(
        False, "hold out samples, stop when their loss stops improving, keep the best weights"
    )
    validation_fraction: float = setting(
        0.1, "fraction of the samples that early stopping holds out", low=0.0, below=1.0
    )
    patience: int = setting(10, "epochs without a lower held-out loss before early stopping", low=1)
    warm_start: bool = setting(False, "continue from the previous fit")


@dataclass(kw_only=True, repr=False, eq=False)
class ClassifierParameters(SequenceParameters):
    """The parameters of GRUClassifier: the common ones and its own."""

    class_weight: Any = setting(None, "balanced: weight all classes equally")


@dataclass(kw_only=True, repr=False, eq=False)
class ForecastParameters(NetworkParameters):
    """The parameters of GRUForecaster."""

    horizon: int = setting(12, "number of steps to forecast", low=1)
    window: Any = setting(
        "auto",
        "number of past steps that a forecast uses; auto: two seasons, at least 24, fewer for short series",
        low=1,
    )
    season_length: Any = setting("auto", "steps per season; auto: inferred from the dates", low=1)
    strategy: str = setting(
        "recursive", "recursive: one step at a time; direct: all steps at once", choices=("recursive", "direct")
    )
    difference: Any = setting(
        "auto", "lags to difference the series by; none: no differencing; auto: 1 if the differences vary less"
    )
    fill: Any = setting(None, "replace missing values: linear, forward (from their neighbours), or a number")
    calibration: Any = setting(
        "auto",
        "fraction of each series, at its end, for intervals instead of training; auto: a fifth, more for short series; "
        "0: no intervals",
    )
    hidden_size: int = setting(32, "units per layer", low=1)
    epochs: int = setting(60, "passes over the windows", low=1)
    batch_size: int = setting(32, "windows per step", low=1)
    verbose: int = setting(0, "1: print every tenth epoch and a summary, 2: every epoch", low=0)


def check_parameters(parameters: Any) -> None:
    """Raise one InputError for all invalid parameters of an estimator; NumPy numbers are accepted."""
    fields = [f for f in dataclasses.fields(parameters) if f.type is not Any]
    values = {f.name: getattr(parameters, f.name) for f in fields}
    values = {name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}
    for f in fields:
        if f.default == "auto" and values[f.name] == "auto":
            del values[f.name]
        if f.name in values and f.type is float and type(values[f.name]) is int:
            values[f.name] = float(values[f.name])
    if wrong := invalid_values(parameters, values):
        raise InputError("; ".join(wrong))


def steps_or_auto(name: str, value: Any, auto: int) -> int:
    """Return a number of steps, which is ``auto`` for "auto"; raise InputError for any other value."""
    if isinstance(value, str) and value == "auto":
        return auto
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InputError(f'{name} must be "auto" or a whole number of steps, at least 1, got {value!r}')
    return int(value)


def share_or_auto(name: str, value: Any) -> float | None:
    """Return a fraction in [0, 1), or None for "auto"; raise InputError for any other value."""
    if isinstance(value, str) and value == "auto":
        return None
    number = value.item() if isinstance(value, np.generic) else value
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise InputError(f'{name} must be "auto" or a number, got {value!r}')
    if not 0 <= number < 1:
        raise InputError(f"{name} must be {'below 1' if number >= 1 else 'at least 0 and finite'}, got {float(number)}")
    return float(number)
