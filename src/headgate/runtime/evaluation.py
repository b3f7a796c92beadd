"""Evaluation of a model on a text: perplexity and bits per character, with the state carried along.

Letters: N tokens, R rows, T time steps.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from headgate.errors import InputError
from headgate.text.stored_ids import Ids

# x, y (T, R), state or None -> cross-entropy of each target in nats (T, R), new state
Losses = Callable[[np.ndarray, np.ndarray, Any], tuple[np.ndarray, Any]]


@dataclass(frozen=True)
class Evaluation:
    """The mean cross-entropy of a text, in nats per token, and the measures derived from it."""

    loss: float
    tokens: int
    characters_per_token: float = 1.0

    @property
    def perplexity(self) -> float:
        return perplexity(self.loss)

    @property
    def bits_per_character(self) -> float:
        return bits_per_character(self.loss, self.characters_per_token)


def perplexity(loss: float) -> float:
    """Return exp(loss) for a mean loss in nats per token; infinity if it overflows.

    >>> perplexity(0.0), perplexity(1000.0)
    (1.0, inf)
    """
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def bits_per_character(loss: float, characters_per_token: float = 1.0) -> float:
    """Convert a loss in nats per token to bits per character.

    >>> bits_per_character(math.log(8), 1.0)
    3.0
    """
    return loss / math.log(2) / characters_per_token


def evaluate(
    losses: Losses, ids: Ids, *, rows: int = 0, steps: int = 128, characters_per_token: float = 1.0
) -> Evaluation:
    """Evaluate the predictions of all tokens of a text but the first, as a mean over tokens.

    The ids (N,) are split into R = ``rows`` pieces that are read in parallel, in chunks of ``steps``; the
    state starts from zeros in each piece and is carried through it. With ``rows=1`` every token is predicted from the
    whole text before it; 0 means one row per 512 tokens, at most 32. Raises InputError for fewer than two ids.
    """
    N = len(ids) - 1
    if N < 1:
        raise InputError(f"evaluation needs a text of at least two tokens, got {len(ids)}")
    R = rows or min(max(N // 512, 1), 32)
    length = -(-N // R)  # of each row; the last may be shorter
    total, state = 0.0, None
    for start in range(0, length, steps):
        at = np.arange(start, min(start + steps, length))[:, None] + length * np.arange(R)  # (steps, R)
        valid = at < N
        at = np.minimum(at, N - 1)
        nats, state = losses(ids[at], ids[at + 1], state)
        total += float(np.sum(nats, where=valid, dtype=np.float64))
    return Evaluation(total / N, N, characters_per_token)
