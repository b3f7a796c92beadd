"""Sequences as NumPy arrays: read from user data, checked, cut, standardized and batched.

Letters: n sequences, T steps (of the longest), F features, N steps of all sequences together, B sequences per batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headgate.errors import InputError

SHAPES = "(samples, steps, features), (samples, steps) for one feature, or a list of (steps, features) arrays"


@dataclass(frozen=True)
class Sequences:
    """Sequences of any lengths, concatenated: values (N, F), and lengths (n,), all at least 1."""

    values: np.ndarray
    lengths: np.ndarray

    @classmethod
    def read(cls, X: Any, name: str = "X") -> "Sequences":
        """Read an array (n, T, F) or (n, T), or a list of arrays (T_i, F) or (T_i,), as float64.

        Raises InputError for other shapes, non-numeric values, no sequences, a sequence without steps, differing
        numbers of features, and NaN or infinity, with its position.

        >>> read = Sequences.read([[1.0, 2.0, 3.0], [4.0]])
        >>> read.values.shape, read.lengths
        ((4, 1), array([3, 1]))
        """
        parts = _parts(X, name)
        if len(parts) == 0:
            raise InputError(f"{name} has no samples: at least one is needed")
        if isinstance(parts, np.ndarray):
            n, T, F = parts.shape
            lengths, values = np.full(n, T), parts.reshape(n * T, F)
        else:
            lengths, values = np.array([len(part) for part in parts]), np.concatenate(parts)
        if not lengths.all():
            raise InputError(f"{name} has a sequence without steps, sample {int(lengths.argmin())}: leave it out")
        if values.shape[1] == 0:
            raise InputError(f"{name} has 0 features: at least one is needed")
        sequences = cls(values, lengths)
        sequences._check_finite(name)
        return sequences

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def features(self) -> int:
        return int(self.values.shape[1])

    @property
    def starts(self) -> np.ndarray:
        """The row of values at which each sequence begins, (n,)."""
        starts: np.ndarray = np.cumsum(self.lengths) - self.lengths
        return starts

    def take(self, indices: np.ndarray) -> "Sequences":
        """Return the sequences with these indices, in their order."""
        starts, lengths = self.starts[indices], self.lengths[indices]
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return Sequences(self.values[np.repeat(starts, lengths) + within], lengths)

    def padded(self) -> np.ndarray:
        """Return the sequences as one array (n, T, F), padded with zeros at the end."""
        n, T = len(self), int(self.lengths.max())
        if (self.lengths == T).all():
            return self.values.reshape(n, T, -1)
        padded = np.zeros((n, T, self.features), self.values.dtype)
        padded[np.arange(T) < self.lengths[:, None]] = self.values
        return padded

    def _check_finite(self, name: str) -> None:
        wrong = np.argwhere(~np.isfinite(self.values))
        if len(wrong):
            row, feature = wrong[0]
            sample = int(np.searchsorted(self.starts, row, side="right")) - 1
            value = "NaN" if np.isnan(self.values[row, feature]) else "infinity (inf)"
            raise InputError(
                f"{name} has {value} at sample {sample}, step {row - self.starts[sample]}, feature {feature} "
                f"({len(wrong)} in all): fill them in or leave those samples out"
            )


@dataclass(frozen=True)
class Scale:
    """The means and standard deviations, each (F,), that standardize columns."""

    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, weights: np.ndarray | None = None) -> "Scale":
        """Compute the means and population standard deviations of values (N, F), weighted by weights (N,).

        A constant column gets the deviation 1, so that it becomes zeros.
        """
        mean = np.average(values, axis=0, weights=weights)
        with np.errstate(over="ignore", invalid="ignore"):  # for numbers beyond 1e154
            deviation = np.sqrt(np.average((values - mean) ** 2, axis=0, weights=weights))
        constant = deviation <= max(10, len(values)) * np.finfo(float).eps * np.abs(mean)  # up to rounding
        return cls(mean, np.where(constant | ~np.isfinite(deviation), 1.0, deviation))

    @classmethod
    def none(cls, columns: int) -> "Scale":
        return cls(np.zeros(columns), np.ones(columns))

    def apply(self, values: np.ndarray) -> np.ndarray:
        return np.asarray((values - self.mean) / self.deviation)

    def undo(self, values: np.ndarray) -> np.ndarray:
        return np.asarray(values * self.deviation + self.mean)


def batches_by_length(lengths: np.ndarray, B: int, random: np.random.Generator | None = None) -> Iterator[np.ndarray]:
    """Yield the indices of B sequences of similar length at a time, so that little padding is needed.

    Without ``random``, sequences are sorted by length. With it, they are shuffled, sorted by length within groups of 50
    batches, and cut into batches, which are shuffled again.

    >>> [b.tolist() for b in batches_by_length(np.array([5, 1, 4, 2]), 2)]
    [[1, 3], [2, 0]]
    """
    order = np.arange(len(lengths)) if random is None else random.permutation(len(lengths))
    if (lengths != lengths[0]).any():
        size = len(order) if random is None else 50 * B
        pieces = [order[i : i + size] for i in range(0, len(order), size)]
        order = np.concatenate([piece[np.argsort(lengths[piece], kind="stable")] for piece in pieces])
    batches = [order[i : i + B] for i in range(0, len(order), B)]
    if random is not None:
        random.shuffle(batches)
    yield from batches


def _parts(X: Any, name: str) -> np.ndarray | list[np.ndarray]:
    """Return an array (n, T, F), or a list with one array (T_i, F) per sample."""
    if isinstance(X, np.ndarray) and X.dtype == object and X.ndim == 1:
        X = list(X)
    if isinstance(X, Sequence) and not isinstance(X, str):
        parts = [_numbers(part, f"{name}[{index}]") for index, part in enumerate(X)]
        ranks = {part.ndim for part in parts}
        if ranks - {1, 2} or len(ranks) > 1:
            index = next((i for i, p in enumerate(parts) if p.ndim not in (1, 2) or p.ndim != parts[0].ndim), 0)
            raise InputError(f"{name} must be {SHAPES}, but {name}[{index}] has the shape {parts[index].shape}")
        parts = [part if part.ndim == 2 else part[:, None] for part in parts]
        other = next((i for i, part in enumerate(parts) if part.shape[1] != parts[0].shape[1]), None)
        if other is not None:
            raise InputError(
                f"{name} must have the same features in every sample: {name}[0] has {parts[0].shape[1]}, "
                f"{name}[{other}] has {parts[other].shape[1]} (read as (steps, features))"
            )
        return parts
    array = _numbers(X, name)
    if array.ndim not in (2, 3):
        raise InputError(f"{name} must be {SHAPES}, got the shape {array.shape}")
    return array if array.ndim == 3 else array[:, :, None]


def _numbers(values: Any, name: str) -> np.ndarray:
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "biuf":
            if array.dtype.kind in "USmM":
                raise InputError(f"{name} must hold numbers, got {array.dtype}: convert it first")
            if array.dtype.kind == "c":
                raise InputError(
                    f"{name} has complex numbers: give real ones, for instance their two parts as features"
                )
            array = array.astype(np.float64)
        return array.astype(np.float64, copy=False)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:  # the last: a tensor with a gradient
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name} must hold numbers: {error}") from None
