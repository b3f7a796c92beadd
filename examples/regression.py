"""A GRU fitted to random numbers, the usual first exercise: why its loss stays near 1.

Every epoch draws a new batch of standard normal inputs (5, 10, 10) and targets (5, 1). The targets do not depend on
the inputs, so no prediction is better than their mean, 0: the expected loss of any model is at least the variance, 1.

    python examples/regression.py
"""

import torch
from torch import nn

from headgate import SequenceModel


def main(epochs: int = 100, samples: int = 5) -> list[float]:
    torch.manual_seed(0)
    model = SequenceModel(10, 20, 1)  # 10 features, 20 hidden units, one number from the last step
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for epoch in range(1, epochs + 1):
        loss = nn.functional.mse_loss(model(torch.randn(samples, 10, 10)), torch.randn(samples, 1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if epoch % 10 == 0:
            print(f"epoch {epoch:3}  loss {losses[-1]:.3f}")
    later = losses[epochs // 2 :]
    print(f"mean loss of the last {len(later)} epochs: {sum(later) / len(later):.3f}; no model can expect less than 1")
    return losses


if __name__ == "__main__":
    main()
