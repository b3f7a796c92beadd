"""The optimizer and its step, the learning rate schedule, and clipping of gradients by norm."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from headgate.settings.run import TrainingSettings
from headgate.training.device import Device


def make_optimizer(settings: TrainingSettings, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Return SGD, Adam or AdamW, fused over all parameters, with PyTorch's betas and epsilon."""
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=rate, momentum=settings.momentum, weight_decay=decay, fused=True)
    kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, lr=rate, weight_decay=decay, fused=True)


def check_state(optimizer: torch.optim.Optimizer, states: Mapping[int, Mapping[str, Tensor]]) -> None:
    """Raise ValueError unless each parameter's optimizer state has its shape.

    A fused optimizer would read and write out of bounds.
    """
    parameters = optimizer.param_groups[0]["params"]
    names = {"momentum_buffer"} if isinstance(optimizer, torch.optim.SGD) else {"step", "exp_avg", "exp_avg_sq"}
    if states and states.keys() != set(range(len(parameters))):
        raise ValueError(f"the optimizer has the state of parameters {sorted(states)}, not of all {len(parameters)}")
    for index, values in states.items():
        shape = parameters[index].shape
        expected = {name: torch.Size() if name == "step" else shape for name in names}
        shapes = {name: value.shape for name, value in values.items()}
        if shapes.get("step") == (1,):  # its shape with a scaled loss
            shapes["step"] = torch.Size()
        if shapes != expected:
            raise ValueError(f"the optimizer's state of parameter {index} has the shapes {shapes}, not {expected}")
        if any(value.dtype != torch.float32 for value in values.values()):
            raise ValueError(f"the optimizer's state of parameter {index} is not all float32")


def learning_rate(settings: TrainingSettings, step: int, total: int) -> float:
    """Return the learning rate of step ``step`` (from 0) of ``total``, before the halvings of schedule "plateau".

    It rises linearly over the first ``warmup`` steps, then is constant or falls along half a cosine to a hundredth.

    >>> learning_rate(TrainingSettings(learning_rate=1.0, schedule="cosine"), 50, 100)
    0.505
    """
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    if settings.schedule != "cosine":
        return settings.learning_rate
    share = (step - settings.warmup) / max(total - settings.warmup, 1)
    return settings.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(share, 1.0))))


def take_step(optimizer: torch.optim.Optimizer, device: Device, loss: float, *, rate: float, clip: float) -> float:
    """Clip the gradients and make an optimizer step, unless the loss or their norm is not finite; return the norm."""
    device.unscale(optimizer)
    norm = clip_gradients(optimizer.param_groups[0]["params"], clip)
    for group in optimizer.param_groups:
        group["lr"] = rate
    device.step(optimizer, finite=math.isfinite(loss + norm))
    return norm


def clip_gradients(parameters: Sequence[nn.Parameter], largest: float) -> float:
    """Scale all gradients so that their joint norm is at most ``largest`` (0: no limit); return the norm before.

    ``parameters`` must be a sequence because it is iterated over twice: a generator would be exhausted after the first
    pass and nothing would be clipped.
    """
    if largest > 0:
        return float(nn.utils.clip_grad_norm_(parameters, largest, foreach=True))
    return float(nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None], foreach=True))
