"""Estimates of the memory that training needs and the machine has, so that a run bound to fail is refused early."""

from headgate.errors import InputError
from headgate.machine import available_memory, in_gigabytes
from headgate.settings.run import Settings

NUMBER = 4  # bytes of a float32, and of an id


def needed(settings: Settings, V: int) -> int:
    """Return a lower bound on the memory, in bytes, for training such a model on a vocabulary of V ids.

    Counts the weights, their gradients and optimizer state, and the outputs and gates of a batch, which backpropagation
    reads. Leaves out small tensors, the head's logits and checkpoints.
    """
    m, t = settings.model, settings.training
    H, E = m.hidden_size, m.embedding
    weights = V * E + 3 * H * (E or V) + 3 * H * H + (m.num_layers - 1) * 6 * H * H
    if m.head == "linear":
        weights += V * H
    kept = {"sgd": int(t.momentum > 0)}.get(t.optimizer, 2)
    activations = 4 * m.num_layers * H * t.sequence_length * (t.batch_size // t.accumulate)
    return NUMBER * (weights * (2 + kept) + activations)


def check_model(settings: Settings, V: int) -> None:
    """Raise InputError if the model cannot be trained in the available memory; a GPU's memory is not checked."""
    if settings.training.device != "cpu":
        return
    least, most = needed(settings, V), available_memory()
    if least > most:
        raise InputError(
            f"training this model takes at least {in_gigabytes(least)} of memory, available are {in_gigabytes(most)}: "
            "use a smaller --hidden-size, fewer --num-layers, or a smaller --batch-size or --sequence-length"
        )
