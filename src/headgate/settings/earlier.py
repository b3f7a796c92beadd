"""Former names and values of settings, found in run directories and prepared corpora of earlier versions."""

from collections.abc import Mapping
from typing import Any

NAMES = {
    "hidden": "hidden_size",
    "layers": "num_layers",
    "batch": "batch_size",
    "steps": "sequence_length",
    "held_out": "validation_fraction",
}
VALUES: dict[str, dict[Any, Any]] = {
    "backend": {"cpu": "native"},
    "precision": {"32": "float32", "bf16": "bfloat16", "16": "float16"},
    "tokenizer": {"word": "words", "bpe": "subwords"},
}


def translated(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of an earlier version under their present names and values.

    >>> translated({"hidden": 8, "precision": "bf16", "epochs": 2})
    {'hidden_size': 8, 'precision': 'bfloat16', 'epochs': 2}
    """
    return {
        NAMES.get(name, name): VALUES[name].get(value, value) if name in VALUES and isinstance(value, str) else value
        for name, value in settings.items()
    }
