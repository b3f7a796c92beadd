"""The heads of a language model: from the states of the last layer to logits, or directly to a cross-entropy.

Letters: N tokens, H hidden size, V vocabulary.
"""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from headgate.layers.functional import adaptive_cross_entropy, linear_cross_entropy
from headgate.settings.weights import DIVISOR, cutoffs


class Head(Protocol):
    """A module that predicts the next id of each of N tokens."""

    def logits(self, states: Tensor) -> Tensor:
        """Compute logits or log-probabilities (N, V) from states (N, H)."""

    def loss(self, states: Tensor, targets: Tensor, *, reduction: str = "mean", **options: Any) -> Tensor:
        """Compute the cross-entropy in nats of targets (N,): the mean, or with reduction="none" that of each token.

        ``options``: batch_invariant and backend, as for :func:`headgate.layers.functional.linear_cross_entropy`.
        """


class LinearHead(nn.Linear):
    """W h + b, with the names and the initialization of torch.nn.Linear."""

    def logits(self, states: Tensor) -> Tensor:
        return nn.functional.linear(states, self.weight, self.bias)

    def loss(self, states: Tensor, targets: Tensor, **options: Any) -> Tensor:
        return linear_cross_entropy(states, self.weight, self.bias, targets, **options)


class TiedHead(nn.Module):
    """W h + b, where W is the weight of an embedding.

    From Press & Wolf 2017 (arXiv:1608.05859) and Inan et al. 2017 (arXiv:1611.01462). Initializes that weight again, as
    torch.nn.Linear does, because the N(0, 1) of torch.nn.Embedding would make the first logits far too large. The
    state_dict contains it once, as the embedding's.
    """

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        bound = embedding.embedding_dim**-0.5
        self.bias = nn.Parameter(torch.empty(embedding.num_embeddings).uniform_(-bound, bound))
        nn.init.uniform_(embedding.weight, -bound, bound)
        self._tied = (embedding,)  # in a tuple, so that it is not registered a second time

    def logits(self, states: Tensor) -> Tensor:
        return nn.functional.linear(states, self._tied[0].weight, self.bias)

    def loss(self, states: Tensor, targets: Tensor, **options: Any) -> Tensor:
        return linear_cross_entropy(states, self._tied[0].weight, self.bias, targets, **options)


class AdaptiveHead(nn.AdaptiveLogSoftmaxWithLoss):
    """An adaptive softmax (Grave et al. 2017, arXiv:1609.04309) with clusters that begin at V // 16 and V // 4.

    Ids must be ordered by frequency, most frequent first. Raises InputError for a vocabulary that is too small.
    """

    def __init__(self, hidden_size: int, vocabulary_size: int) -> None:
        super().__init__(hidden_size, vocabulary_size, cutoffs(vocabulary_size), DIVISOR)

    def logits(self, states: Tensor) -> Tensor:
        return self.log_prob(states)

    def loss(self, states: Tensor, targets: Tensor, *, reduction: str = "mean", **_: Any) -> Tensor:
        return adaptive_cross_entropy(self, states, targets, reduction=reduction)
