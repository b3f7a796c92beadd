"""Time the fit of a GRURegressor against torch.nn.GRU in a plain training loop, in turn.

n = 2,000 sequences of T = 50 steps and 8 features, H = 64, 20 epochs with batches of 32, Adam. The plain loop is the
usual short one: a permutation, nn.GRU, the last step into nn.Linear, mean squared error. Before anything is timed, both
models must give the same values and gradients for the same weights, and both must have learned.

    python benchmarks/fitting.py [--threads 2] [--rounds 5]
"""

import numpy as np
import torch
from torch import nn

from headgate import GRURegressor, SequenceModel
from rounds import conclude, in_turn, ratio, start

N, T, F, H, EPOCHS, BATCH = 2000, 50, 8, 64, 20, 32
GOAL = 3.0


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(F, H, batch_first=True)
        self.head = nn.Linear(H, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs, _ = self.gru(x)
        return self.head(outputs[:, -1])


def plain_loop(X: np.ndarray, y: np.ndarray) -> float:
    """Return the loss of the last epoch, for a standardized target."""
    x, target = torch.from_numpy(X), torch.from_numpy((y - y.mean()) / y.std()).float().unsqueeze(1)
    model, criterion = Plain(), nn.MSELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    for _ in range(EPOCHS):
        total = 0.0
        for indices in torch.randperm(N).split(BATCH):
            loss = criterion(model(x[indices]), target[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(indices)
    return total / N


def same_function() -> None:
    """Raise AssertionError unless both models give the same values and gradients for the same weights."""
    theirs, ours = Plain(), SequenceModel(F, H, 1)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(BATCH, T, F)
    for model in (theirs, ours):
        model(x).square().mean().backward()
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-5)


def main() -> None:
    options = start(__doc__)
    same_function()
    random = np.random.default_rng(0)
    X = random.normal(size=(N, T, F)).astype(np.float32)
    y = X[:, :, 0].mean(1) * 3 + X[:, -5, 1] + 0.1 * random.normal(size=N)

    def fit() -> float:
        return GRURegressor(hidden_size=H, epochs=EPOCHS, batch_size=BATCH, random_state=0).fit(X, y).loss_curve_[-1]

    losses = {"plain loop": plain_loop(X, y), "GRURegressor": fit()}
    print("loss of the last epoch: " + ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items()))
    assert max(losses.values()) < 0.1, "one of the models has not learned"
    theirs, ours = in_turn([lambda: plain_loop(X, y), fit], options.rounds)
    faster = ratio(theirs, ours)
    print(f"plain loop {np.median(theirs):.2f} s, GRURegressor {np.median(ours):.2f} s: {faster:.2f} times faster")
    conclude({"fit": (faster, GOAL)}, losses=losses)


if __name__ == "__main__":
    main()
