"""How gradients become steps: the optimizer, the learning rate over the run, clipping by norm."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from headgate.configuration import TrainingSettings


def make_optimizer(settings: TrainingSettings, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """SGD, Adam or AdamW over all parameters at once (``fused``), with the betas and epsilon of PyTorch."""
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=rate, momentum=settings.momentum, weight_decay=decay, fused=True)
    kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, lr=rate, weight_decay=decay, fused=True)


def learning_rate(settings: TrainingSettings, step: int, total: int) -> float:
    """The learning rate of a step (counted from 0) of ``total``, before schedule plateau's halvings.

    It rises linearly over the first ``warmup`` steps; then it is constant, or falls as half a cosine to a hundredth.

    >>> learning_rate(TrainingSettings(learning_rate=1.0, schedule="cosine"), 50, 100)
    0.505
    """
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    if settings.schedule != "cosine":
        return settings.learning_rate
    share = (step - settings.warmup) / max(total - settings.warmup, 1)
    return settings.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(share, 1.0))))


def clip_gradients(parameters: Sequence[nn.Parameter], largest: float) -> float:
    """Scale all gradients together so that their norm is at most ``largest`` (0: leave them); the norm it was before.

    A sequence, because it is walked through twice: a generator would be used up by the first walk, and nothing clipped.
    """
    if largest > 0:
        return float(nn.utils.clip_grad_norm_(parameters, largest, foreach=True))
    return float(nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None], foreach=True))
