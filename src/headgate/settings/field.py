"""A setting: a dataclass field with its default, help text and bounds, and the check of its value."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import field
from typing import Any

BACKENDS = ("auto", "equations", "torch", "native")


def setting(
    default: Any,
    meaning: str,
    *,
    choices: tuple[Any, ...] = (),
    low: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """Return a dataclass field with a help text and its allowed values: one of ``choices``, or those within bounds."""
    bounds = {"choices": choices, "low": low, "above": above, "below": below}
    return field(default=default, metadata={"help": meaning, **bounds})


def invalid_values(section: Any, values: Mapping[str, Any] | None = None) -> list[str]:
    """Return a message for each invalid field of a section, or for each invalid one of ``values`` in their place."""
    wrong = []
    hints = typing.get_type_hints(type(section))
    for f in dataclasses.fields(section):
        if values is not None and f.name not in values:
            continue
        value = getattr(section, f.name) if values is None else values[f.name]
        choices, low, above, below = (f.metadata[key] for key in ("choices", "low", "above", "below"))
        if isinstance(hints[f.name], types.GenericAlias):  # tuple[str, ...]
            if not isinstance(value, tuple) or not all(isinstance(v, str) for v in value):
                wrong.append(f"{f.name} must be a list of strings, got {value!r}")
        elif type(value) is not hints[f.name]:
            wrong.append(f"{f.name} must be {NAMES[hints[f.name]]}, got {value!r}")
        elif choices and value not in choices:
            wrong.append(f"{f.name} must be one of {', '.join(choices)}, got {value!r}")
        elif low is not None and type(value) is int and value > LARGEST:
            wrong.append(f"{f.name} must be at most {LARGEST}")
        elif low is not None and not low <= value < math.inf:
            wrong.append(f"{f.name} must be at least {low:g} and finite, got {value}")
        elif above is not None and not above < value < math.inf:
            wrong.append(f"{f.name} must be above {above:g} and finite, got {value}")
        elif below is not None and not value < below:
            wrong.append(f"{f.name} must be below {below:g}, got {value}")
    return wrong


LARGEST = 2**31 - 1  # whole number
NAMES: dict[type, str] = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}
