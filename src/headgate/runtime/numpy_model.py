"""A language model on NumPy, for machines without the native library.

Letters: T time steps, B batch, N tokens, H hidden size, L layers, V vocabulary, E embedding, O rows of the head.
"""

from collections.abc import Sequence

import numpy as np

from headgate.runtime.sampling import Sampling, draw


class NumpyModel:
    """A language model with the methods of :class:`headgate.runtime.native_model.NativeModel`.

    embedding (V, E) or None, layers of (weight_ih, weight_hh, bias_ih, bias_hh), head (O, H) and (O,): arrays, not
    copied. O is V, or less if the caller computes the remaining logits itself; such a model cannot generate. The
    methods raise IndexError for ids outside 0 to V-1.
    """

    def __init__(
        self,
        embedding: np.ndarray | None,
        layers: Sequence[tuple[np.ndarray, ...]],
        head: tuple[np.ndarray, np.ndarray],
        *,
        reset: str,
    ) -> None:
        self._embedding, self._layers, self._head, self._reset = embedding, layers, head, reset
        self.V = layers[0][0].shape[1] if embedding is None else len(embedding)

    def step(self, ids: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Advance a state (L, B, H) by ids (B,); return logits (B, O) and the new state."""
        outputs, state = self.read(ids[None], state)
        return self.logits(outputs[0]), state

    def read(self, ids: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Advance a state (L, B, H) by ids (T, B); return the states of the last layer (T, B, H) and the new state."""
        if ids.size and not (ids.min() >= 0 and ids.max() < self.V):
            raise IndexError(f"ids must be from 0 to {self.V - 1}, got {ids.min()} to {ids.max()}")
        x: np.ndarray | None = None if self._embedding is None else self._embedding[ids]
        last = []
        for h, (W_ih, W_hh, b_ih, b_hh) in zip(state, self._layers, strict=True):
            a = (W_ih.T[ids] if x is None else x @ W_ih.T) + b_ih  # (T, B, 3H)
            x = np.empty((*ids.shape, h.shape[-1]), np.float32)
            for t in range(len(ids) if ids.size else 0):
                h = _step(a[t], h, W_hh, b_hh, self._reset)
                x[t] = h
            last.append(h)
        assert x is not None  # there is at least one layer
        return x, np.stack(last)

    def logits(self, outputs: np.ndarray) -> np.ndarray:
        """Compute logits (N, O) from states of the last layer (N, H)."""
        weight, bias = self._head
        logits: np.ndarray = outputs @ weight.T + bias
        return logits

    def generate(
        self,
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
        return draw(self.step, sampling, uniform, forbidden, seen, logits, state)


def _step(a: np.ndarray, h: np.ndarray, W_hh: np.ndarray, b_hh: np.ndarray, reset: str) -> np.ndarray:
    """Compute one step of equations.py: a (B, 3H), h (B, H) -> (B, H)."""
    H = h.shape[-1]
    if reset == "after":
        g = h @ W_hh.T + b_hh  # (B, 3H)
        r, z = np.split(_sigmoid(a[:, : 2 * H] + g[:, : 2 * H]), 2, 1)
        n = np.tanh(a[:, 2 * H :] + r * g[:, 2 * H :])
    else:
        r, z = np.split(_sigmoid(a[:, : 2 * H] + h @ W_hh[: 2 * H].T + b_hh[: 2 * H]), 2, 1)
        n = np.tanh(a[:, 2 * H :] + (r * h) @ W_hh[2 * H :].T + b_hh[2 * H :])
    new: np.ndarray = (1 - z) * n + z * h
    return new


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * np.tanh(0.5 * x) + 0.5  # never overflows
