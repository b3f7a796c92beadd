"""Gated recurrent units (GRUs): a layer, language models, estimators for sequences, and a runtime without torch."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "GRU",
    "GRUCell",
    "GRUClassifier",
    "GRUForecaster",
    "GRURegressor",
    "InputError",
    "LanguageModel",
    "Runtime",
    "SequenceModel",
    "Settings",
    "gru",
    "swap",
    "train",
]

if TYPE_CHECKING:
    from headgate.errors import InputError
    from headgate.estimators.forecaster import GRUForecaster
    from headgate.estimators.sequence import GRUClassifier, GRURegressor
    from headgate.layers.cell import GRUCell
    from headgate.layers.functional import gru
    from headgate.layers.gru import GRU
    from headgate.layers.swap import swap
    from headgate.models.language_model import LanguageModel
    from headgate.models.sequence_model import SequenceModel
    from headgate.runtime.runtime import Runtime
    from headgate.settings.run import Settings
    from headgate.training.run import train

_HOMES = {  # the module of each public name; imported on first use, so that the runtime never loads torch
    "GRU": "layers.gru",
    "GRUCell": "layers.cell",
    "GRUClassifier": "estimators.sequence",
    "GRUForecaster": "estimators.forecaster",
    "GRURegressor": "estimators.sequence",
    "InputError": "errors",
    "LanguageModel": "models.language_model",
    "Runtime": "runtime.runtime",
    "SequenceModel": "models.sequence_model",
    "Settings": "settings.run",
    "gru": "layers.functional",
    "swap": "layers.swap",
    "train": "training.run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    home = _HOMES[name]
    try:
        module = importlib.import_module(f"{__name__}.{home}")
    except ModuleNotFoundError as error:
        errors = importlib.import_module(f"{__name__}.errors")
        if error.name not in errors.EXTRAS:
            raise
        extra = "estimators" if home.startswith("estimators") else ""  # it installs torch as well
        raise ModuleNotFoundError(errors.not_installed(name, error.name, extra), name=error.name) from error
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
