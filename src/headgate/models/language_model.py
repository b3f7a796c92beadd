"""A language model, ids -> GRU -> head: ``(tokens, state) -> (logits, state)``.

Letters: T time steps, B batch, V vocabulary, H hidden size, L layers.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from headgate.errors import InputError
from headgate.layers.gru import GRU
from headgate.layers.heads import AdaptiveHead, Head, LinearHead, TiedHead
from headgate.runs.run_directory import RunDirectory
from headgate.settings.run import ModelSettings, Settings
from headgate.settings.weights import check_weights


class LanguageModel(nn.Module):
    """A model that predicts the next token of a text from the tokens before it.

    The input is one-hot (never made: columns of weight_ih are gathered), or an embedding if ``settings.embedding`` > 0.
    Dropout acts on the embedding, between layers and before the head.

    Parameters
    ----------
    settings : Settings or ModelSettings
        The settings of the model, or of a whole run. ``initialization`` "normal" is the textbook's from-scratch start:
        weights from N(0, 0.01), zero biases. ``head`` selects :class:`headgate.layers.heads.LinearHead`,
        :class:`~headgate.layers.heads.TiedHead`, which shares the embedding's weight, or
        :class:`~headgate.layers.heads.AdaptiveHead`, for large vocabularies.
    vocabulary_size : int
        V.
    document_id : int, optional
        The id that begins a document: the state starts over from zeros there.
    backend : str
        As for :class:`headgate.GRU`.

    Raises
    ------
    InputError
        If the head does not fit the sizes or the vocabulary.

    Examples
    --------
    >>> model = LanguageModel(Settings().replaced(hidden_size=8), vocabulary_size=5)
    >>> logits, state = model(torch.tensor([[0], [3]]))
    >>> logits.shape, state.shape
    (torch.Size([2, 1, 5]), torch.Size([1, 1, 8]))
    """

    def __init__(
        self,
        settings: Settings | ModelSettings,
        vocabulary_size: int,
        *,
        document_id: int | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        settings = settings.model if isinstance(settings, Settings) else settings
        self.document_id = document_id
        V, H = vocabulary_size, settings.hidden_size
        if problem := settings.head_problem():
            raise InputError(problem)
        self.settings = settings
        self.embedding = nn.Embedding(V, settings.embedding) if settings.embedding else None
        self.gru = GRU(
            settings.embedding or V,
            H,
            settings.num_layers,
            bias=True if settings.bias == "double" else "single",
            dropout=settings.dropout if settings.num_layers > 1 else 0.0,
            reset=settings.reset,
            batch_invariant=False,
            backend=backend,
        )
        self.dropout = nn.Dropout(settings.dropout)
        self.head: Head
        if settings.head == "adaptive":
            self.head = AdaptiveHead(H, V)
        elif self.embedding is not None and settings.head == "tied":
            self.head = TiedHead(self.embedding)
        else:
            self.head = LinearHead(H, V)
        if settings.initialization == "normal":
            for parameter in self.parameters():
                if parameter.dim() > 1:
                    nn.init.normal_(parameter, std=0.01)
                else:
                    nn.init.zeros_(parameter)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, best: bool = False, backend: str = "auto") -> "LanguageModel":
        """Load the model of a run directory, in evaluation mode, on the CPU.

        Parameters
        ----------
        path : str or path
            The run directory.
        best : bool
            Load the weights with the lowest held-out loss instead of the newest.
        backend : str
            As for :class:`headgate.GRU`.

        Returns
        -------
        LanguageModel

        Raises
        ------
        InputError
            If the directory has no such weights, or they do not fit its settings.
        """
        run = RunDirectory.open(Path(path))
        weights, V = run.weights(best=best), run.tokenizer.vocabulary_size
        try:
            check_weights(weights, run.settings.model, V)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        model = cls(run.settings.model, V, document_id=run.tokenizer.document_id, backend=backend)
        model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
        return model.eval()

    def forward(self, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Compute the logits of the next token at every step.

        Parameters
        ----------
        tokens : Tensor (T, B)
            Integer ids.
        state : Tensor (L, B, H), optional
            The state before the first step; zeros by default.

        Returns
        -------
        logits : Tensor (T, B, V)
            Log-probabilities if the head is adaptive.
        state : Tensor (L, B, H)
            The state after the last step.
        """
        states, state = self._read(tokens, state)
        return self.head.logits(states.flatten(0, 1)).unflatten(0, tokens.shape), state

    def loss(
        self, tokens: Tensor, targets: Tensor, state: Tensor | None = None, *, reduction: str = "mean"
    ) -> tuple[Tensor, Tensor]:
        """Compute the cross-entropy of the next tokens, as from :meth:`forward` but without storing all logits.

        Parameters
        ----------
        tokens : Tensor (T, B)
            Integer ids.
        targets : Tensor (T, B)
            The id that follows each token.
        state : Tensor (L, B, H), optional
            The state before the first step; zeros by default.
        reduction : {"mean", "none"}
            Return the mean loss or that of each token.

        Returns
        -------
        loss : Tensor
            In nats: a scalar, or (T * B,) with reduction="none".
        state : Tensor (L, B, H)
            The state after the last step.
        """
        states, state = self._read(tokens, state)
        loss = self.head.loss(
            states.flatten(0, 1),
            targets.flatten(),
            reduction=reduction,
            batch_invariant=not self.training,
            backend=self.gru.backend,
        )
        return loss, state

    def _read(self, tokens: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Compute the input of the head (T, B, H) and the state after the last step."""
        x = tokens if self.embedding is None else self.dropout(self.embedding(tokens))
        resets = None if self.document_id is None else tokens == self.document_id
        states, state = self.gru(x, state, resets=resets)
        return self.dropout(states), state


def numpy_weights(model: LanguageModel) -> dict[str, np.ndarray]:
    """Return the weights as NumPy arrays; they share the memory of a model on the CPU."""
    return {name: value.detach().cpu().numpy() for name, value in model.state_dict().items()}


def evaluation_losses(
    model: LanguageModel,
) -> Callable[[np.ndarray, np.ndarray, Tensor | None], tuple[np.ndarray, Tensor]]:
    """Return the losses of a model as a function for :func:`headgate.runtime.evaluation.evaluate`.

    It runs the model in evaluation mode and restores the mode afterwards.
    """

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
