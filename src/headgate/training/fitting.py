"""fit(): the loop that trains a sequence model on sequences and targets and keeps the best weights.

Letters: n sequences, T steps, F features, B batch, O outputs.
"""

import contextvars
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headgate.console import progress_bar
from headgate.errors import InputError
from headgate.models.sequence_model import SequenceModel
from headgate.sequences.arrays import Sequences, batches_by_length
from headgate.settings.run import TrainingSettings
from headgate.training.device import Device
from headgate.training.optimization import learning_rate, make_optimizer, take_step

# Called after each step; once it returns True, training ends as if that step had been the last.
stopping: contextvars.ContextVar[Callable[[], bool]] = contextvars.ContextVar("stopping", default=lambda: False)

# outputs (B, O), targets (B, ...) -> the loss of each (B,)
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Examples:
    """Sequences with targets, (n, O) float32 or (n,) classes, and optional weights (n,) float32 of mean 1."""

    sequences: Sequences
    targets: np.ndarray
    weights: np.ndarray | None = None

    def take(self, indices: np.ndarray) -> "Examples":
        weights = None if self.weights is None else self.weights[indices]
        return Examples(self.sequences.take(indices), self.targets[indices], weights)


@dataclass
class FitState:
    """A model in training, with everything that another epoch needs, and its history."""

    model: SequenceModel
    settings: TrainingSettings
    loss: Loss
    random: np.random.Generator  # the order of the sequences
    optimizer: torch.optim.Optimizer = field(init=False)
    history: list[dict[str, float]] = field(default_factory=list)  # epoch, loss, held_out

    def __post_init__(self) -> None:
        self.optimizer = make_optimizer(self.settings, list(self.model.parameters()))


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Compute the mean squared error of each sequence: outputs and targets (B, O) -> (B,)."""
    return (outputs - targets).square().mean(1)


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Compute the cross-entropy of each sequence in nats: logits (B, O), classes (B,) -> (B,)."""
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def fit(state: FitState, training: Examples, held_out: Examples | None = None, *, verbose: int = 0) -> None:
    """Train for ``settings.epochs`` more epochs; with held-out examples, end with the weights that were best on them.

    Stops early after ``settings.patience`` epochs without a better held-out loss. Draws dropout from torch's generator
    and the order of the sequences from ``state.random``. ``verbose`` 1 prints every tenth epoch, 2 every epoch; both
    show a progress bar on a terminal. Raises InputError if the loss is not finite in most steps of an epoch.
    """
    settings, begin = state.settings, len(state.history)
    epochs = begin + settings.epochs
    per_epoch = -(-len(training.sequences) // settings.batch_size)
    best, best_epoch, best_weights = math.inf, begin, None
    if held_out is not None and begin:  # more training must not make the model worse
        best, best_weights = mean_loss(state.model, held_out, state.loss), _copy(state.model)
    with progress_bar(settings.epochs, unit="epoch", shown=verbose > 0) as bar:
        for epoch in range(begin + 1, epochs + 1):
            first_step = (epoch - 1 - begin) * per_epoch
            loss = _epoch(state, training, first_step, settings.epochs * per_epoch)
            entry: dict[str, float] = {"epoch": epoch, "loss": loss}
            if held_out is not None:
                entry["held_out"] = mean_loss(state.model, held_out, state.loss)
                if entry["held_out"] < best:  # False for nan
                    best, best_epoch = entry["held_out"], epoch
                    best_weights = _copy(state.model)
            state.history.append(entry)
            stopped = held_out is not None and 0 < settings.patience <= epoch - best_epoch
            stopped = stopped or stopping.get()()
            bar.set_postfix_str(_losses(entry), refresh=False)
            bar.update()
            if verbose and (verbose > 1 or epoch % 10 == 0 or epoch == epochs or stopped):
                _say(bar, f"epoch {epoch}/{epochs}  {_losses(entry)}")
            if stopped:
                break
        if best_weights is not None:
            state.model.load_state_dict(best_weights)
            if verbose and best_epoch != len(state.history):
                _say(bar, f"the weights are those of epoch {best_epoch}, whose held-out loss was lowest: {best:.4f}")


def _epoch(state: FitState, training: Examples, first_step: int, total: int) -> float:
    """Train on each sequence once; return the mean of the losses before each step."""
    settings, model = state.settings, state.model.train()
    device = Device(model.head.weight.device)
    loss_sum, taken, skipped = 0.0, 0, 0
    for number, indices in enumerate(batches_by_length(training.sequences.lengths, settings.batch_size, state.random)):
        loss = _loss(model, training.take(indices), state.loss)
        state.optimizer.zero_grad()
        loss.backward()
        rate, value = learning_rate(settings, first_step + number, total), loss.item()
        norm = take_step(state.optimizer, device, value, rate=rate, clip=settings.clip)
        if not math.isfinite(value + norm):
            skipped += 1
            continue
        loss_sum, taken = loss_sum + value * len(indices), taken + len(indices)
        if stopping.get()():
            break
    if skipped > number / 2:
        raise InputError(
            f"the loss or its gradient was not finite in {skipped} of {number + 1} steps of an epoch: try a lower "
            f"learning_rate (it was {settings.learning_rate:g}), or standardize the data"
        )
    return loss_sum / taken


def mean_loss(model: SequenceModel, examples: Examples, loss: Loss, batch: int = 256) -> float:
    """Compute the (weighted) mean loss over all examples, in evaluation mode."""
    model.eval()
    total = 0.0
    with torch.inference_mode():
        for indices in batches_by_length(examples.sequences.lengths, batch):
            total += _loss(model, examples.take(indices), loss).item() * len(indices)
    return total / len(examples.sequences)


def trivial_loss(examples: Examples) -> float:
    """Compute the (weighted) mean loss of a constant prediction: the mean target, or the class frequencies."""
    targets, weights = examples.targets, examples.weights
    weights = np.ones(len(targets)) if weights is None else weights.astype(np.float64)
    if targets.ndim == 2:
        targets = targets.astype(np.float64)
        losses = np.square(targets - np.average(targets, axis=0, weights=weights)).mean(1)
    else:
        frequencies = np.bincount(targets, weights) / weights.sum()
        losses = -np.log(np.maximum(frequencies, np.finfo(float).tiny))[targets]
    return float((weights * losses).mean())


def predict(model: SequenceModel, sequences: Sequences, batch: int = 256) -> np.ndarray:
    """Compute the outputs (n, O) for all sequences, in evaluation mode."""
    model.eval()
    outputs = np.empty((len(sequences), model.head.out_features), np.float32)
    with torch.inference_mode():
        for indices in batches_by_length(sequences.lengths, batch):
            outputs[indices] = _read(model, sequences.take(indices)).cpu().numpy()
    return outputs


def _loss(model: SequenceModel, batch: Examples, loss: Loss) -> Tensor:
    """Compute the weighted mean loss of a batch."""
    outputs = _read(model, batch.sequences)
    losses = loss(outputs, torch.from_numpy(batch.targets).to(outputs.device))
    if batch.weights is not None:
        losses = losses * torch.from_numpy(batch.weights).to(outputs.device)
    return losses.mean()


def _read(model: SequenceModel, sequences: Sequences) -> Tensor:
    device = model.head.weight.device
    x = torch.from_numpy(sequences.padded()).to(device)
    equal = bool((sequences.lengths == x.shape[1]).all())
    outputs: Tensor = model(x, None if equal else torch.from_numpy(sequences.lengths).to(device))
    return outputs


def _copy(model: SequenceModel) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _losses(entry: dict[str, float]) -> str:
    return f"loss {entry['loss']:.4f}" + (f"  held-out {entry['held_out']:.4f}" if "held_out" in entry else "")


def _say(bar: Any, text: str) -> None:
    if bar.disable:
        print(text, flush=True)
    else:
        bar.write(text, file=sys.stdout)
