"""How gradients become steps: the optimizer, the learning rate over the run, clipping by norm."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from headgate.settings.run import TrainingSettings


def make_optimizer(settings: TrainingSettings, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """SGD, Adam or AdamW over all parameters at once (``fused``), with the betas and epsilon of PyTorch."""
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=rate, momentum=settings.momentum, weight_decay=decay, fused=True)
    kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, lr=rate, weight_decay=decay, fused=True)


def check_state(optimizer: torch.optim.Optimizer, states: Mapping[int, Mapping[str, Tensor]]) -> None:
    """ValueError unless each parameter's numbers have its shape: a fused optimizer reads and writes beyond others."""
    parameters = optimizer.param_groups[0]["params"]
    names = {"momentum_buffer"} if isinstance(optimizer, torch.optim.SGD) else {"step", "exp_avg", "exp_avg_sq"}
    if states and states.keys() != set(range(len(parameters))):
        raise ValueError(f"the optimizer has numbers of the parameters {sorted(states)}, not of {len(parameters)}")
    for index, values in states.items():
        shape = parameters[index].shape
        expected = {name: torch.Size() if name == "step" else shape for name in names}
        found = {name: value.shape for name, value in values.items()}
        if found.get("step") == (1,):  # as a scaled loss leaves it
            found["step"] = torch.Size()
        if found != expected:
            raise ValueError(f"the optimizer's numbers of parameter {index} are {found}, not {expected}")
        if any(value.dtype != torch.float32 for value in values.values()):
            raise ValueError(f"the optimizer's numbers of parameter {index} are not all float32")


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
