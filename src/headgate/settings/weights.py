"""Names and shapes of the weights of a language model with given settings.

Letters: V vocabulary, H hidden size, E embedding.
"""

from collections.abc import Mapping

import numpy as np

from headgate.errors import InputError
from headgate.settings.run import ModelSettings


def check_weights(weights: Mapping[str, np.ndarray], settings: ModelSettings, V: int) -> None:
    """Raise InputError unless the weights are those of a model with these settings."""
    H, E = settings.hidden_size, settings.embedding
    if settings.num_layers > len(weights):  # a damaged number would make any number of names below
        raise InputError(
            f"the weights do not have the {settings.num_layers} layers that config.json says: restore both from one run"
        )
    expected: dict[str, tuple[int, ...]] = {"head.weight": (V, H), "head.bias": (V,)}
    if settings.head == "tied":
        del expected["head.weight"]
    elif settings.head == "adaptive":
        expected = adaptive_shapes(V, H)
    if E:
        expected["embedding.weight"] = (V, E)
    for layer in range(settings.num_layers):
        expected[f"gru.weight_ih_l{layer}"] = (3 * H, H if layer else E or V)
        expected[f"gru.weight_hh_l{layer}"] = (3 * H, H)
        for bias in ("bias_ih", "bias_hh") if settings.bias == "double" else ("bias_ih",):
            expected[f"gru.{bias}_l{layer}"] = (3 * H,)
    if missing := sorted(expected.keys() ^ weights.keys()):
        raise InputError(f"the weights and config.json disagree about {', '.join(missing)}: restore both from one run")
    for name, shape in expected.items():
        if weights[name].shape != shape:
            raise InputError(
                f"{name} has shape {weights[name].shape}, but config.json and a vocabulary of {V} need {shape}: "
                "restore weights, config.json and tokenizer.json from one run"
            )
        if weights[name].dtype.kind != "f":
            raise InputError(f"{name} holds {weights[name].dtype}, not floating-point numbers: restore the weights")


DIVISOR = 4  # of an adaptive head: each projection has a quarter of the rows of the previous one
SMALLEST = 1000  # vocabulary; below it, a linear head is as fast


def cutoffs(V: int) -> tuple[int, ...]:
    """Return the first id of each cluster of an adaptive head; raise InputError if the vocabulary is too small.

    >>> cutoffs(30_000)
    (1875, 7500)
    """
    if V < SMALLEST:
        raise InputError(
            f"head = adaptive needs a vocabulary of at least {SMALLEST:,}, got {V:,}: use head = linear or tied, or a "
            "text or tokenizer with more tokens"
        )
    return V // 16, V // 4


def adaptive_shapes(V: int, H: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of an adaptive head's matrices, by their names in ``LanguageModel.state_dict()``."""
    starts = cutoffs(V)
    shapes: dict[str, tuple[int, ...]] = {"head.head.weight": (starts[0] + len(starts), H)}
    for cluster, (start, end) in enumerate(zip(starts, (*starts[1:], V), strict=True)):
        size = H // DIVISOR ** (cluster + 1)
        shapes[f"head.tail.{cluster}.0.weight"] = size, H
        shapes[f"head.tail.{cluster}.1.weight"] = end - start, size
    return shapes
