"""Optimizers against their formulas, the learning rate during a run, and the norm after clipping."""

import math

import pytest
import torch
from torch import nn

from headgate.settings.run import TrainingSettings
from headgate.training.device import Device
from headgate.training.optimization import clip_gradients, learning_rate, make_optimizer, take_step


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.randn(3, 5)), nn.Parameter(torch.randn(7))]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
@pytest.mark.parametrize("largest", [0.01, 1.0])
def test_norm_after_clipping(scale: float, largest: float) -> None:
    ps = parameters()
    for p in ps:
        p.grad = torch.randn_like(p) * scale
    before = torch.cat([p.grad.flatten() for p in ps])
    norm = clip_gradients(ps, largest)
    after = torch.cat([p.grad.flatten() for p in ps])
    assert norm == pytest.approx(float(before.norm()), rel=1e-5)
    assert float(after.norm()) <= largest * (1 + 1e-6)
    assert float(after.norm()) == pytest.approx(min(norm, largest), rel=1e-3)
    assert torch.allclose(after / after.norm(), before / before.norm(), atol=1e-6)  # all gradients have the same factor


def test_no_clipping() -> None:
    ps = parameters()
    for p in ps:
        p.grad = torch.full_like(p, 100.0)
    assert clip_gradients(ps, 0) == pytest.approx(100 * math.sqrt(22))
    assert all((p.grad == 100).all() for p in ps)


@pytest.mark.parametrize("loss", [1.0, math.nan])
@pytest.mark.parametrize("gradient", [3.0, math.inf])
def test_a_step_is_taken_if_loss_and_gradient_are_finite(loss: float, gradient: float) -> None:
    p = nn.Parameter(torch.tensor([1.0, 2.0]))
    p.grad = torch.tensor([gradient, 4.0])
    optimizer = make_optimizer(TrainingSettings(optimizer="sgd", learning_rate=9.0), [p])
    norm = take_step(optimizer, Device(torch.device("cpu")), loss, rate=0.1, clip=1.0)
    assert norm == pytest.approx(math.hypot(gradient, 4.0))
    taken = math.isfinite(loss + gradient)
    assert p.tolist() == pytest.approx([1 - 0.1 * 0.6, 2 - 0.1 * 0.8] if taken else [1.0, 2.0])


def test_sgd() -> None:
    p = nn.Parameter(torch.tensor([1.0, 2.0]))
    p.grad = torch.tensor([0.5, -0.5])
    make_optimizer(TrainingSettings(optimizer="sgd", learning_rate=0.1), [p]).step()
    assert torch.allclose(p, torch.tensor([0.95, 2.05]))


@pytest.mark.parametrize(("name", "decayed"), [("adam", 0.0), ("adamw", 0.1 * 0.5 * 1.0)])
def test_adam(name: str, decayed: float) -> None:
    p = nn.Parameter(torch.tensor([1.0]))
    p.grad = torch.tensor([0.3])
    decay = 0.5 if name == "adamw" else 0.0
    make_optimizer(TrainingSettings(optimizer=name, learning_rate=0.1, weight_decay=decay), [p]).step()
    assert p.item() == pytest.approx(1.0 - decayed - 0.1, abs=1e-6)  # the first step of Adam is the learning rate


def test_momentum() -> None:
    p = nn.Parameter(torch.tensor([0.0]))
    optimizer = make_optimizer(TrainingSettings(optimizer="sgd", learning_rate=1.0, momentum=0.5), [p])
    for _ in range(2):
        p.grad = torch.tensor([1.0])
        optimizer.step()
    assert p.item() == -2.5


def test_cosine_with_warm_up() -> None:
    settings = TrainingSettings(learning_rate=2.0, schedule="cosine", warmup=10)
    rates = [learning_rate(settings, step, 110) for step in range(111)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[10] == 2.0
    assert rates[60] == pytest.approx(2.0 * (0.01 + 0.99 / 2))
    assert rates[110] == pytest.approx(0.02)
    assert sorted(rates[10:], reverse=True) == rates[10:]


@pytest.mark.parametrize("schedule", ["constant", "plateau"])
def test_constant(schedule: str) -> None:
    settings = TrainingSettings(learning_rate=2.0, schedule=schedule)
    assert {learning_rate(settings, step, 100) for step in range(100)} == {2.0}
