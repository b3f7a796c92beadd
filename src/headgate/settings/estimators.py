"""The parameters of the estimators: defaults, meanings and bounds; flags of the command line come from them."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from headgate.errors import InputError
from headgate.settings.field import BACKENDS, invalid_values, setting


@dataclass(kw_only=True, repr=False, eq=False)
class SequenceParameters:
    """The parameters of GRURegressor and GRUClassifier."""

    hidden_size: int = setting(64, "units of each layer", low=1)
    num_layers: int = setting(1, "GRU layers", low=1)
    bidirectional: bool = setting(False, "read sequences from both ends")
    pool: str = setting("last", "summary of a sequence, of all its states", choices=("last", "mean", "max"))
    dropout: float = setting(0.0, "probability, between layers and before the linear layer", low=0.0, below=1.0)
    reset: str = setting("after", "the variant of the GRU", choices=("after", "before"))
    epochs: int = setting(
        "auto",
        "passes over the samples; auto: 100, and more where these would be few updates for long sequences",
        low=1,
    )
    batch_size: int = setting(32, "samples of a step, of much the same length", low=1)
    learning_rate: float = setting(0.005, "of AdamW", above=0.0)
    schedule: str = setting(
        "cosine", "cosine: the learning rate falls to a hundredth over the epochs", choices=("cosine", "constant")
    )
    weight_decay: float = setting(0.0, "of AdamW", low=0.0)
    clip: float = setting(1.0, "largest gradient norm; 0: not clipped", low=0.0)
    standardize: bool = setting(True, "take the mean away from features and targets, divide by the deviation")
    early_stopping: bool = setting(False, "hold samples out, stop when they get no better, keep the best weights")
    validation_fraction: float = setting(0.1, "share of the samples that early stopping holds out", low=0.0, below=1.0)
    patience: int = setting(10, "epochs without a lower held-out loss before early stopping stops", low=1)
    warm_start: bool = setting(False, "fit goes on from the fit before")
    random_state: Any = setting(None, "seed of everything random")
    verbose: int = setting(0, "1: print every tenth epoch, 2: every one", low=0)
    device: str = setting("cpu", "where to compute: cpu, cuda, ...")
    backend: str = setting("auto", "which implementation computes the GRU", choices=BACKENDS)


@dataclass(kw_only=True, repr=False, eq=False)
class ClassifierParameters(SequenceParameters):
    """Those of GRUClassifier."""

    class_weight: Any = setting(None, "balanced: all classes count the same")


@dataclass(kw_only=True, repr=False, eq=False)
class ForecastParameters:
    """The parameters of GRUForecaster."""

    horizon: int = setting(12, "steps of a forecast", low=1)
    window: Any = setting(
        "auto", "steps that a forecast looks back; auto: two seasons, at least 24, fewer for short series", low=1
    )
    season_length: Any = setting("auto", "steps of a season; auto: what the dates suggest", low=1)
    strategy: str = setting(
        "recursive", "recursive: a step at a time; direct: all at once", choices=("recursive", "direct")
    )
    difference: Any = setting(
        "auto", "model differences over these lags; none: the values; auto: 1 if that varies less"
    )
    fill: Any = setting(None, "missing values become: linear, forward (their neighbours), or a number")
    calibration: Any = setting(
        "auto",
        "share of each series, at its end, for intervals instead of training; auto: a fifth, more of short series; "
        "0: no intervals",
    )
    hidden_size: int = setting(32, "units of each layer", low=1)
    num_layers: int = setting(1, "GRU layers", low=1)
    dropout: float = setting(0.0, "probability, between layers and before the linear layer", low=0.0, below=1.0)
    reset: str = setting("after", "the variant of the GRU", choices=("after", "before"))
    epochs: int = setting(60, "passes over the windows", low=1)
    batch_size: int = setting(32, "windows of a step", low=1)
    learning_rate: float = setting(0.005, "of AdamW", above=0.0)
    weight_decay: float = setting(0.0, "of AdamW", low=0.0)
    random_state: Any = setting(None, "seed of everything random")
    verbose: int = setting(0, "1: print every tenth epoch and a summary, 2: every epoch", low=0)
    device: str = setting("cpu", "where to compute: cpu, cuda, ...")
    backend: str = setting("auto", "which implementation computes the GRU", choices=BACKENDS)


def check_parameters(parameters: Any) -> None:
    """InputError that says everything that is wrong with an estimator's parameters; NumPy's numbers are numbers too."""
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
    """A number of steps, where "auto" means that of ``auto``; InputError for what is neither."""
    if isinstance(value, str) and value == "auto":
        return auto
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InputError(f'{name} must be "auto" or a whole number of steps, at least 1, got {value!r}')
    return int(value)


def share_or_auto(name: str, value: Any) -> float | None:
    """A share, None for "auto"; InputError for what is neither."""
    if isinstance(value, str) and value == "auto":
        return None
    number = value.item() if isinstance(value, np.generic) else value
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise InputError(f'{name} must be "auto" or a number, got {value!r}')
    if not 0 <= number < 1:
        raise InputError(f"{name} must be {'below 1' if number >= 1 else 'at least 0 and finite'}, got {float(number)}")
    return float(number)
