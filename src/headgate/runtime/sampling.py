"""Decoding: the next id from logits (greedy, temperature, top-k, top-p, min-p, repetition penalty), and beam search.

Letters: V vocabulary, L layers, W beams, H hidden size.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from headgate.errors import InputError

HELD = 2**26  # upper bound on the logits, state values or ids of all beams of a search: a few gigabytes
Step = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]  # ids (W,), state -> logits (W, V), state


@dataclass(frozen=True)
class Sampling:
    """The settings for drawing the next id. They apply in this order.

    repetition_penalty   divides positive logits of ids already in the text and multiplies negative ones
                         (Keskar et al., arXiv:1909.05858); 1 changes nothing
    temperature          divides the logits; 0 is greedy: always the most probable id, the lowest id in case of a tie
    top_k                keep the k most probable ids; 0 keeps all
    top_p                keep the fewest most probable ids whose probabilities sum to at least p
                         (Holtzman et al., arXiv:1904.09751)
    min_p                keep ids at least min_p times as probable as the best (Nguyen et al., arXiv:2407.01082)

    >>> Sampling(temperature=0.5, top_k=2).probabilities(np.array([1.0, 0.0, -1.0])).round(3)
    array([0.881, 0.119, 0.   ])
    """

    repetition_penalty: float = 1.0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        wrong = [
            f"{name} must be {bounds}, got {value}"
            for name, bounds, value, fine in (
                ("repetition_penalty", "above 0", self.repetition_penalty, 0 < self.repetition_penalty < math.inf),
                ("temperature", "at least 0 and finite", self.temperature, 0 <= self.temperature < math.inf),
                ("top_k", "at least 0", self.top_k, self.top_k >= 0),
                ("top_p", "above 0 and at most 1", self.top_p, 0 < self.top_p <= 1),
                ("min_p", "from 0 to 1", self.min_p, 0 <= self.min_p <= 1),
            )
            if not fine
        ]
        if wrong:
            raise InputError("; ".join(wrong))

    def probabilities(self, logits: np.ndarray, seen: Sequence[int] | np.ndarray = ()) -> np.ndarray:
        """Return the distribution of the next id: logits (V,) and the ids of the text so far -> (V,) float64.

        A logit of -inf forbids its id. Greedy decoding gives one id the probability 1.
        """
        logits = logits.astype(np.float64)
        if self.repetition_penalty != 1 and len(seen):
            repeated = np.unique(np.asarray(seen))
            value = logits[repeated]
            logits[repeated] = np.where(value > 0, value / self.repetition_penalty, value * self.repetition_penalty)
        if self.temperature == 0:
            chosen = np.zeros_like(logits)
            chosen[logits.argmax()] = 1.0
            return chosen
        p = np.exp((logits - logits.max()) / self.temperature)
        if self.top_k:
            p[np.argsort(-p, kind="stable")[self.top_k :]] = 0.0
        p /= p.sum()
        if self.top_p < 1:
            order = np.argsort(-p, kind="stable")
            before = np.cumsum(p[order]) - p[order]  # total probability of the more probable ids
            p[order[before >= self.top_p]] = 0.0
        p[p < self.min_p * p.max()] = 0.0
        return np.asarray(p / p.sum())

    def choose(self, logits: np.ndarray, uniform: float, seen: Sequence[int] | np.ndarray = ()) -> int:
        """Draw the next id with a random number ``uniform`` from [0, 1), which greedy decoding ignores."""
        p = self.probabilities(logits, seen)
        if self.temperature == 0:
            return int(p.argmax())
        return min(int(np.searchsorted(np.cumsum(p), uniform, side="right")), int(p.nonzero()[0][-1]))


def draw(
    step: Step,
    sampling: Sampling,
    uniform: np.ndarray,
    forbidden: np.ndarray,
    seen: np.ndarray,
    logits: np.ndarray,
    state: np.ndarray,
) -> np.ndarray:
    """Draw one id for each of the numbers in ``uniform``, (n,) float64; return ids (n,) int64.

    forbidden and seen (V,) bool, logits (V,), state (L, 1, H): the last three are updated in place.
    """
    ids = np.empty(len(uniform), np.int64)
    for k, number in enumerate(uniform):
        ids[k] = sampling.choose(np.where(forbidden, -np.inf, logits), number, np.flatnonzero(seen))
        seen[ids[k]] = True
        following, state[:] = step(ids[k : k + 1], state)
        logits[:] = following[0]
    return ids


def seed_of(seed: int, number: int) -> int:
    """Return the seed of text ``number`` of several: ``seed`` itself for text 0, and different seeds for the rest.

    Texts drawn with the same random numbers would make the same choices: if one takes the third most probable id, all
    do.

    >>> seed_of(7, 0), seed_of(7, 1) != seed_of(8, 0)
    (7, True)
    """
    return int(np.random.SeedSequence((seed, number)).generate_state(1, np.uint64)[0]) if number else seed


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return the logarithm of the softmax over the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def beam_search(
    step: Step, logits: np.ndarray, state: np.ndarray, *, width: int, length: int
) -> list[tuple[list[int], float]]:
    """Return the most probable continuations that a beam of ``width`` finds, best first.

    logits (1, V) and state (L, 1, H) are those after the prefix. Each result is a pair (``length`` ids, log-probability
    in nats). All continuations have the same length, so no length penalty is needed. Raises InputError for a width
    below 1, a negative length, or a search that would need too much memory.
    """
    if width < 1 or length < 0:
        raise InputError(f"beam search needs a width of at least 1 and a length of at least 0, got {width}, {length}")
    V = logits.shape[-1]
    most = min(width, max(V, 2) ** min(length, width.bit_length()))  # beams that can exist
    if (size := most * max(V, length, state.size)) > HELD:
        raise InputError(
            f"a beam of width {width:,} and length {length:,} is too large: it can hold at most {HELD:,} numbers, "
            f"got {size:,}: reduce the width or the length"
        )
    beams: list[list[int]] = [[]]
    scores = np.zeros(1)
    for _ in range(length):
        total = scores[:, None] + log_softmax(logits)  # (W, V)
        best = np.argsort(-total, axis=None, kind="stable")[:width]
        best = best[np.isfinite(total.flat[best])]
        parents, ids = np.unravel_index(best, total.shape)
        beams = [[*beams[p], int(i)] for p, i in zip(parents, ids, strict=True)]
        scores = total[parents, ids]
        logits, state = step(ids, state[:, parents])
    return list(zip(beams, scores.tolist(), strict=True))
