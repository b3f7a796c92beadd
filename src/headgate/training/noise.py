"""The textbook chapter's toy: a sequence model fitted to random inputs and targets, drawn again in every epoch."""

from collections.abc import Callable

import torch

from headgate.models.sequence_model import SequenceModel
from headgate.settings.recipe import Noise
from headgate.settings.run import TrainingSettings
from headgate.training.fitting import squared_error
from headgate.training.optimization import make_optimizer


def fit_noise(noise: Noise, *, seed: int, say: Callable[[str], None]) -> list[float]:
    """Train for ``noise.epochs`` epochs of one batch (mean squared error, Adam); return the loss before each step.

    Inputs (samples, steps, features) and targets (samples, 1) are standard normal. Calls ``say`` with the loss of every
    tenth epoch. Restores torch's random generator afterwards.
    """
    settings = TrainingSettings(optimizer="adam", learning_rate=noise.learning_rate)
    losses = []
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = SequenceModel(noise.features, noise.hidden_size, 1)
        optimizer = make_optimizer(settings, model.parameters())
        for epoch in range(1, noise.epochs + 1):
            x, y = torch.randn(noise.samples, noise.steps, noise.features), torch.randn(noise.samples, 1)
            loss = squared_error(model(x), y).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if epoch % 10 == 0:
                say(f"epoch {epoch}/{noise.epochs}  loss {loss.item():.4f}")
    return losses
