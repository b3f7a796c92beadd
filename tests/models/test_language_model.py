"""LanguageModel against the same model assembled from torch modules and explicit one-hot vectors."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from headgate import InputError, LanguageModel
from headgate.models.language_model import evaluation_losses
from headgate.runtime.evaluation import evaluate
from headgate.settings.run import ModelSettings, Settings

T, B, V, H, L = 4, 3, 7, 6, 2


@pytest.mark.parametrize("embedding", [0, 5])
def test_values_equal_torch(assert_close, embedding: int) -> None:
    model = LanguageModel(ModelSettings(hidden_size=H, num_layers=L, embedding=embedding, dropout=0.0), V)
    reference = nn.GRU(embedding or V, H, L)
    reference.load_state_dict(model.gru.state_dict())
    tokens, state = torch.randint(V, (T, B)), torch.randn(L, B, H)
    logits, new = model(tokens, state)
    x = model.embedding(tokens) if embedding else nn.functional.one_hot(tokens, V).float()
    states, expected = reference(x, state)
    assert logits.shape == (T, B, V)
    assert_close("logits", logits.detach(), model.head(states).detach(), 1e-6)
    assert_close("state", new.detach(), expected.detach(), 1e-6)
    assert torch.equal(model(tokens)[0], model(tokens, torch.zeros(L, B, H))[0])


def test_state_carries_a_text_through() -> None:
    model = LanguageModel(ModelSettings(hidden_size=H, num_layers=L, embedding=0, dropout=0.0), V).double()
    tokens = torch.randint(V, (2 * T, B))
    whole, _ = model(tokens)
    first, state = model(tokens[:T])
    second, _ = model(tokens[T:], state)
    assert torch.allclose(whole, torch.cat([first, second]), atol=1e-14)


@pytest.mark.parametrize("embedding", [0, 5])
def test_each_document_starts_over(embedding: int) -> None:
    """A separator resets the state of its row to zeros, as if each document were read alone."""
    model = LanguageModel(
        ModelSettings(hidden_size=H, num_layers=L, embedding=embedding, dropout=0.0), V, document_id=V - 1
    )
    tokens, state = torch.randint(V - 1, (2 * T, B)), torch.randn(L, B, H)
    begins = {0: [3, 5], 2: [0]}  # row: steps
    for row, steps in begins.items():
        tokens[steps, row] = V - 1
    logits, new = model(tokens, state)
    for row in range(B):
        pieces = [0, *begins.get(row, []), len(tokens)]
        before = state[:, row : row + 1]
        for start, end in pairwise(pieces):
            if start == end:
                continue
            before = torch.zeros_like(before) if start in begins.get(row, []) else before
            alone, before = model(tokens[start:end, row : row + 1], before)
            assert torch.allclose(logits[start:end, row : row + 1], alone, atol=1e-6)
        assert torch.allclose(new[:, row : row + 1], before, atol=1e-6)


def test_no_one_hot_tensor_is_created() -> None:
    """With this vocabulary, the one-hot tensor would take 80 GB."""
    V = 1_000_000
    model = LanguageModel(ModelSettings(hidden_size=1, embedding=0, dropout=0.0), V)
    tokens = torch.randint(V, (200, 100))
    states, _ = model.gru(tokens)
    states.sum().backward()
    gradient = model.gru.weight_ih_l0.grad
    assert gradient is not None
    assert set(gradient.abs().sum(0).nonzero().flatten().tolist()) <= set(tokens.unique().tolist())


def test_normal_initialization() -> None:
    model = LanguageModel(
        ModelSettings(hidden_size=64, bias="single", initialization="normal", embedding=0, dropout=0.0), 50
    )
    names = {n for n, _ in model.named_parameters()}
    assert names == {"gru.weight_ih_l0", "gru.weight_hh_l0", "gru.bias_ih_l0", "head.weight", "head.bias"}
    for name, parameter in model.named_parameters():
        if "bias" in name:
            assert not parameter.any()
        else:
            assert 0.009 < parameter.std() < 0.011


def test_tied(assert_close) -> None:
    """One matrix is embedding and head, and its gradient is the sum of both uses."""
    model = LanguageModel(ModelSettings(hidden_size=H, num_layers=L, embedding=H, head="tied", dropout=0.0), V).double()
    names = {name for name in model.state_dict() if not name.startswith("gru.")}
    assert names == {"embedding.weight", "head.bias"}
    reference = nn.GRU(H, H, L).double()
    reference.load_state_dict(model.gru.state_dict())
    W_in, W_out = (model.embedding.weight.detach().clone().requires_grad_() for _ in range(2))
    tokens, targets = torch.randint(V, (T, B)), torch.randint(V, (T, B))
    expected = nn.functional.linear(reference(W_in[tokens])[0], W_out, model.head.bias.detach())
    assert_close("logits", model(tokens)[0].detach(), expected.detach(), 1e-14)
    losses = nn.functional.cross_entropy(expected.flatten(0, 1), targets.flatten(), reduction="none")
    assert_close("losses", model.loss(tokens, targets, reduction="none")[0].detach(), losses.detach(), 1e-14)
    losses.mean().backward()
    model.loss(tokens, targets)[0].backward()
    assert_close("gradient", model.embedding.weight.grad, W_in.grad + W_out.grad, 1e-14)
    assert W_in.grad.any()


def test_tied_starts_as_a_linear_head_does() -> None:
    """The first logits are small, and independent of the embedding's own initialization."""
    V = 500
    model = LanguageModel(ModelSettings(hidden_size=64, embedding=64, head="tied", dropout=0.0), V)
    for parameter in (model.embedding.weight, model.head.bias):
        assert 0.99 / 8 < parameter.abs().max() <= 1 / 8
    assert model(torch.randint(V, (T, B)))[0].abs().max() < 1


WIDE = 1003  # tokens, for an adaptive head


def test_adaptive() -> None:
    """The logits are log-probabilities that match the loss, and the state_dict has the names of torch's module."""
    model = LanguageModel(ModelSettings(hidden_size=17, embedding=5, head="adaptive", dropout=0.0), WIDE).double()
    assert {k: tuple(v.shape) for k, v in model.state_dict().items() if k.startswith("head.")} == {
        "head.head.weight": (62 + 2, 17),
        "head.tail.0.0.weight": (4, 17),
        "head.tail.0.1.weight": (250 - 62, 4),
        "head.tail.1.0.weight": (1, 17),
        "head.tail.1.1.weight": (WIDE - 250, 1),
    }
    tokens, targets = torch.randint(WIDE, (T, B)), torch.tensor([0, 61, 62, 249, 250, WIDE - 1] * 2).view(T, B)
    log_p, state = model(tokens)
    assert log_p.shape == (T, B, WIDE)
    assert log_p.logsumexp(2).abs().max() < 1e-13
    expected = -log_p.gather(2, targets[:, :, None]).flatten()
    losses, after = model.loss(tokens, targets, reduction="none")
    assert torch.allclose(losses, expected, atol=1e-13)
    assert torch.equal(after, state)
    gradients = torch.autograd.grad(expected.mean(), list(model.parameters()))
    actual = torch.autograd.grad(model.loss(tokens, targets)[0], list(model.parameters()))
    assert all(torch.allclose(a, b, atol=1e-14) for a, b in zip(actual, gradients, strict=True))
    ids = np.random.default_rng(0).integers(WIDE, size=100)
    whole = evaluate(evaluation_losses(model), ids, rows=1, steps=7)
    log_p, _ = model(torch.from_numpy(ids[:-1, None]))
    assert whole.loss == pytest.approx(-log_p[:, 0].gather(1, torch.from_numpy(ids[1:, None])).mean().item(), rel=1e-12)


def test_heads_that_do_not_fit_are_refused() -> None:
    message = (
        "head = tied uses the embedding's weights, so embedding must equal hidden_size, got embedding = 128 and "
        "hidden_size = 9: set embedding to 9, or use another head"
    )
    for make in (
        lambda: LanguageModel(ModelSettings(hidden_size=9, head="tied"), V),
        lambda: Settings().replaced(hidden_size=9, head="tied"),
    ):
        with pytest.raises(InputError) as caught:
            make()
        assert str(caught.value) == message
    with pytest.raises(InputError, match="head = adaptive needs hidden_size to be at least 16, got 15: use more units"):
        Settings().replaced(hidden_size=15, head="adaptive")
    with pytest.raises(InputError, match="needs a vocabulary of at least 1,000, got 999: use head = linear or tied"):
        LanguageModel(ModelSettings(head="adaptive"), 999)


def test_dropout_before_the_head() -> None:
    model = LanguageModel(ModelSettings(hidden_size=H, dropout=0.5, embedding=0), V)
    tokens = torch.randint(V, (T, B))
    assert not torch.equal(model(tokens)[0], model(tokens)[0])
    model.eval()
    assert torch.equal(model(tokens)[0], model(tokens)[0])


@pytest.mark.parametrize("training", [False, True])
def test_losses(training: bool) -> None:
    """Losses over a text equal those of one pass, without dropout, and the training mode is restored."""
    model = LanguageModel(ModelSettings(hidden_size=H, dropout=0.5, embedding=0), V).train(training)
    ids = np.random.default_rng(0).integers(V, size=300)
    actual = evaluate(evaluation_losses(model), ids, rows=1, steps=7)
    assert model.training == training
    model.eval()
    with torch.no_grad():
        logits, _ = model(torch.from_numpy(ids[:-1, None]))
    expected = nn.functional.cross_entropy(logits[:, 0].double(), torch.from_numpy(ids[1:]))
    assert actual.loss == pytest.approx(expected.item(), rel=1e-5)
    assert actual.tokens == 299
