"""The adaptive softmax (Grave et al. 2017, arXiv:1609.04309): where it cuts a vocabulary, its matrices, its function.

The most frequent ids share one softmax with a place for each cluster of rarer ids; each cluster has a softmax of its
own, over a projection of the state that is smaller the rarer its ids are. torch.nn.AdaptiveLogSoftmaxWithLoss trains
it; this is what that computes, on NumPy.

Letters: N tokens, H hidden size, V vocabulary, S ids that share the first softmax, C clusters.
"""

from collections.abc import Mapping

import numpy as np

from headgate.errors import InputError
from headgate.runtime.sampling import log_softmax

DIVISOR = 4  # each projection has so many times fewer rows than what came before it
SMALLEST = 1000  # vocabulary; below it, a linear head is as fast


def cutoffs(V: int) -> tuple[int, ...]:
    """The first id of each cluster; ids come most frequent first. InputError for a vocabulary that is too small.

    >>> cutoffs(30_000)
    (1875, 7500)
    """
    if V < SMALLEST:
        raise InputError(
            f"head = adaptive needs a vocabulary of at least {SMALLEST:,}, got {V:,}: take head = linear or tied, or a "
            "text or tokenizer with more tokens"
        )
    return V // 16, V // 4


def shapes(V: int, H: int) -> dict[str, tuple[int, ...]]:
    """The matrices by their names in ``LanguageModel.state_dict()``."""
    starts = cutoffs(V)
    found: dict[str, tuple[int, ...]] = {"head.head.weight": (starts[0] + len(starts), H)}
    for cluster, (start, end) in enumerate(zip(starts, (*starts[1:], V), strict=True)):
        size = H // DIVISOR ** (cluster + 1)
        found[f"head.tail.{cluster}.0.weight"] = size, H
        found[f"head.tail.{cluster}.1.weight"] = end - start, size
    return found


class Clusters:
    """The clusters of a model's head; the first softmax' logits (N, S + C) come from whoever computes linear heads."""

    def __init__(self, weights: Mapping[str, np.ndarray], V: int) -> None:
        starts = cutoffs(V)
        self._V, self._S = V, starts[0]
        self._clusters = [
            (start, end, weights[f"head.tail.{c}.0.weight"], weights[f"head.tail.{c}.1.weight"])
            for c, (start, end) in enumerate(zip(starts, (*starts[1:], V), strict=True))
        ]

    def log_probabilities(self, states: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """Of every id: states (N, H), logits (N, S + C) -> (N, V) float32."""
        first = log_softmax(logits)
        found = np.empty((len(states), self._V), np.float32)
        found[:, : self._S] = first[:, : self._S]
        for place, (start, end, projection, weight) in enumerate(self._clusters, self._S):
            found[:, start:end] = log_softmax(states @ projection.T @ weight.T) + first[:, place, None]
        return found

    def log_probability(self, states: np.ndarray, logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Of each token's target alone, whose cluster is all that is computed: targets (N,) -> (N,) float64."""
        places = targets.astype(np.int64)
        inside = np.zeros(len(states))
        for place, (start, end, projection, weight) in enumerate(self._clusters, self._S):
            rows = np.flatnonzero((targets >= start) & (targets < end))
            log_p = log_softmax(states[rows] @ projection.T @ weight.T)
            inside[rows] = log_p[np.arange(len(rows)), targets[rows] - start]
            places[rows] = place
        return np.asarray(log_softmax(logits)[np.arange(len(states)), places] + inside)
