"""The clusters of an adaptive softmax (Grave et al. 2017, arXiv:1609.04309), on NumPy.

The most frequent ids share one softmax with one entry for each cluster of rarer ids. Each cluster has its own softmax
over a projection of the state, smaller for rarer ids. torch.nn.AdaptiveLogSoftmaxWithLoss trains this head; the
functions here compute the same.

Letters: N tokens, H hidden size, V vocabulary, S ids in the first softmax, C clusters.
"""

from collections.abc import Mapping

import numpy as np

from headgate.runtime.sampling import log_softmax
from headgate.settings.weights import cutoffs


class Clusters:
    """The clusters of an adaptive head; the caller computes the logits (N, S + C) of the first softmax."""

    def __init__(self, weights: Mapping[str, np.ndarray], V: int) -> None:
        starts = cutoffs(V)
        self._V, self._S = V, starts[0]
        self._clusters = [
            (start, end, weights[f"head.tail.{c}.0.weight"], weights[f"head.tail.{c}.1.weight"])
            for c, (start, end) in enumerate(zip(starts, (*starts[1:], V), strict=True))
        ]

    def log_probabilities(self, states: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """Return the log-probabilities of all ids: states (N, H), logits (N, S + C) -> (N, V) float32."""
        first = log_softmax(logits)
        log_p = np.empty((len(states), self._V), np.float32)
        log_p[:, : self._S] = first[:, : self._S]
        for place, (start, end, projection, weight) in enumerate(self._clusters, self._S):
            log_p[:, start:end] = log_softmax(states @ projection.T @ weight.T) + first[:, place, None]
        return log_p

    def log_probability(self, states: np.ndarray, logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Return the log-probability of each target, computing its cluster only: targets (N,) -> (N,) float64."""
        places = targets.astype(np.int64)
        inside = np.zeros(len(states))
        for place, (start, end, projection, weight) in enumerate(self._clusters, self._S):
            rows = np.flatnonzero((targets >= start) & (targets < end))
            log_p = log_softmax(states[rows] @ projection.T @ weight.T)
            inside[rows] = log_p[np.arange(len(rows)), targets[rows] - start]
            places[rows] = place
        return np.asarray(log_softmax(logits)[np.arange(len(states)), places] + inside)
