"""A language model: ids -> GRU -> linear head; ``(tokens, state) -> (logits, state)``.

Letters: T time steps, B batch, V vocabulary, H hidden size, L layers.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from headgate.configuration import ModelSettings
from headgate.functional import linear_cross_entropy
from headgate.layer import GRU


class LanguageModel(nn.Module):
    """Predicts the next token of a text from the tokens before it.

    The input is one-hot (never made: a row of weight_ih is gathered), or an embedding where settings.embedding > 0.
    Dropout acts on the embedding, between layers and before the head. ``settings.initialization`` "normal" is the
    textbook's from-scratch start: weights from N(0, 0.01), biases zero. At each id ``separator``, with which a document
    begins, the state starts over from zeros.

    >>> model = LanguageModel(ModelSettings(hidden=8), vocabulary_size=5)
    >>> logits, state = model(torch.tensor([[0], [3]]))
    >>> logits.shape, state.shape
    (torch.Size([2, 1, 5]), torch.Size([1, 1, 8]))
    """

    def __init__(
        self,
        settings: ModelSettings,
        vocabulary_size: int,
        *,
        separator: int | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.separator = separator
        V, H = vocabulary_size, settings.hidden
        self.settings = settings
        self.embedding = nn.Embedding(V, settings.embedding) if settings.embedding else None
        self.gru = GRU(
            settings.embedding or V,
            H,
            settings.layers,
            bias=True if settings.bias == "double" else "single",
            dropout=settings.dropout if settings.layers > 1 else 0.0,
            reset=settings.reset,
            backend=backend,
        )
        self.dropout = nn.Dropout(settings.dropout)
        self.head = nn.Linear(H, V)
        if settings.initialization == "normal":
            for parameter in self.parameters():
                if parameter.dim() > 1:
                    nn.init.normal_(parameter, std=0.01)
                else:
                    nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """tokens (T, B) integer, state (L, B, H) or None for zeros -> logits (T, B, V), state after the last step."""
        states, state = self._read(tokens, state)
        return self.head(states), state

    def loss(
        self, tokens: Tensor, targets: Tensor, state: Tensor | None = None, *, reduction: str = "mean"
    ) -> tuple[Tensor, Tensor]:
        """The cross-entropy of the tokens that follow, targets (T, B), in nats: their mean, or with reduction="none"
        that of each, (T * B,); and the state after the last step. The same as from the logits, without making them."""
        states, state = self._read(tokens, state)
        loss = linear_cross_entropy(
            states.flatten(0, 1), self.head.weight, self.head.bias, targets.flatten(), reduction=reduction,
            backend=self.gru.backend,
        )  # fmt: skip
        return loss, state

    def _read(self, tokens: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the head reads, (T, B, H), and the state after the last step."""
        x = tokens if self.embedding is None else self.dropout(self.embedding(tokens))
        resets = None if self.separator is None else tokens == self.separator
        states, state = self.gru(x, state, resets=resets)
        return self.dropout(states), state


def losses_of(model: LanguageModel) -> Callable[[np.ndarray, np.ndarray, Tensor | None], tuple[np.ndarray, Tensor]]:
    """A model as :func:`headgate.evaluation.evaluate` wants it: in evaluation mode, left as it was found."""

    def losses(x: np.ndarray, y: np.ndarray, state: Tensor | None) -> tuple[np.ndarray, Tensor]:
        was_training = model.training
        model.eval()
        try:
            with torch.inference_mode():
                device = next(model.parameters()).device
                tokens, targets = (torch.from_numpy(v).long().to(device) for v in (x, y))
                nats, state = model.loss(tokens, targets, state, reduction="none")
        finally:
            model.train(was_training)
        return nats.view(x.shape).cpu().numpy(), state

    return losses
