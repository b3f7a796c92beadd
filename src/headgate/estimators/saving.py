"""Saving and loading, which all estimators share."""

import os
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator

from headgate.runs import estimator_directory


class SavedEstimator(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """An estimator that can be saved in a directory."""

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the fitted estimator into a directory, without pickle.

        Parameters
        ----------
        path : str or path
            The directory; created if it does not exist.
        overwrite : bool
            Replace an estimator that is already there.

        Raises
        ------
        InputError
            If the directory contains something else, or an estimator and ``overwrite`` is False.

        Notes
        -----
        Two things are not saved: the state of the optimizer, which starts from zero if fitting continues after
        :meth:`load`, and a ``random_state`` that is a generator. A forecaster is saved with its series.
        """
        estimator_directory.write(path, type(self).__name__, self.get_params(), *self.to_state(), overwrite=overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read an estimator that :meth:`save` wrote.

        Parameters
        ----------
        path : str or path
            The directory.

        Returns
        -------
        estimator

        Raises
        ------
        InputError
            If the directory is missing or damaged, or contains an estimator of another class.
        """
        saved = estimator_directory.read(path, cls.__name__)
        with saved.damage():
            return cls.from_state(saved.parameters, saved.facts, saved.arrays)

    def to_state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the fitted state as JSON values and arrays, for :meth:`from_state`."""
        raise NotImplementedError

    @classmethod
    def from_state(
        cls, parameters: Mapping[str, Any], facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
    ) -> Self:
        """Return a fitted estimator with these parameters and the state that :meth:`to_state` returned."""
        raise NotImplementedError
