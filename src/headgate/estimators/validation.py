"""Arguments of estimators: tables or sequences, error messages, and fits that change everything or nothing."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from headgate.errors import InputError


@contextlib.contextmanager
def rollback_on_error(estimator: Any) -> Iterator[None]:
    """Restore the estimator's attributes if the block raises."""
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:  # also Ctrl-C
        vars(estimator).clear()
        vars(estimator).update(before)
        raise


@contextlib.contextmanager
def as_input_error() -> Iterator[None]:
    """Context manager: turn scikit-learn's ValueError about an argument into an InputError."""
    try:
        yield
    except ValueError as error:
        raise InputError(str(error)) from error


def is_table(X: Any) -> bool:
    """Return True if X has two axes, (samples, steps), as for scikit-learn's other estimators, or no visible axes.

    Then scikit-learn checks X; otherwise X is read as sequences.
    """
    if isinstance(X, list | tuple):
        try:
            shapes = {np.shape(part) for part in X}
        except ValueError:  # a part is ragged itself
            return False
        return len(shapes) == 1 and len(shapes.pop()) <= 1
    ndim = getattr(X, "ndim", 2)
    return not (ndim > 2 or (ndim == 1 and str(getattr(X, "dtype", "")) == "object"))


def unequal(samples: int, targets: int, X: Any) -> str:
    """Return the error message for an X and a y with different numbers of samples."""
    shape: tuple[int, ...] = X.shape if isinstance(X, np.ndarray) else ()
    hint = "give one y per sample"
    if len(shape) == 3 and targets in shape[1:]:
        axes = (1, 0, 2) if shape[1] == targets else (2, 0, 1)
        hint = f"the axes of {shape} look swapped, X.transpose{axes} has {targets} samples"
    return (
        f"X and y have inconsistent numbers of samples, {samples} and {targets} (X is read as (samples, steps, "
        f"features)): {hint}"
    )
