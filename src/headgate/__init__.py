"""The gated recurrent unit as finished software: a layer, language models, and a runtime without torch."""

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
    "ModelSettings",
    "Runtime",
    "Sampling",
    "SequenceModel",
    "gru",
]

if TYPE_CHECKING:
    from headgate.cell import GRUCell
    from headgate.configuration import ModelSettings
    from headgate.errors import InputError
    from headgate.estimators import GRUClassifier, GRURegressor
    from headgate.forecaster import GRUForecaster
    from headgate.functional import gru
    from headgate.language_model import LanguageModel
    from headgate.layer import GRU
    from headgate.runtime import Runtime
    from headgate.sampling import Sampling
    from headgate.sequence_model import SequenceModel

_HOMES = {  # where each public name lives; loaded when first used, so that the runtime never loads torch
    "GRU": "layer",
    "GRUCell": "cell",
    "GRUClassifier": "estimators",
    "GRUForecaster": "forecaster",
    "GRURegressor": "estimators",
    "InputError": "errors",
    "LanguageModel": "language_model",
    "ModelSettings": "configuration",
    "Runtime": "runtime",
    "Sampling": "sampling",
    "SequenceModel": "sequence_model",
    "gru": "functional",
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
        extra = "estimators" if home in ("estimators", "forecaster") else ""  # which installs torch as well
        raise ModuleNotFoundError(errors.not_installed(name, error.name, extra), name=error.name) from error
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
