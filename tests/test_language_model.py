"""LanguageModel: against the same model put together from torch's own pieces, with one-hot vectors made."""

import numpy as np
import pytest
import torch
from torch import nn

from headgate import LanguageModel, ModelSettings
from headgate.evaluation import evaluate
from headgate.language_model import losses_of

T, B, V, H, L = 4, 3, 7, 6, 2


@pytest.mark.parametrize("embedding", [0, 5])
def test_values(assert_close, embedding: int) -> None:
    model = LanguageModel(ModelSettings(hidden=H, layers=L, embedding=embedding, dropout=0.0), V)
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
    model = LanguageModel(ModelSettings(hidden=H, layers=L, embedding=0, dropout=0.0), V).double()
    tokens = torch.randint(V, (2 * T, B))
    whole, _ = model(tokens)
    first, state = model(tokens[:T])
    second, _ = model(tokens[T:], state)
    assert torch.allclose(whole, torch.cat([first, second]), atol=1e-14)


def test_the_one_hot_is_never_made() -> None:
    """A vocabulary whose one-hot tensor would take 80 GB."""
    V = 1_000_000
    model = LanguageModel(ModelSettings(hidden=1, embedding=0, dropout=0.0), V)
    tokens = torch.randint(V, (200, 100))
    states, _ = model.gru(tokens)
    states.sum().backward()
    gradient = model.gru.weight_ih_l0.grad
    assert gradient is not None
    assert set(gradient.abs().sum(0).nonzero().flatten().tolist()) <= set(tokens.unique().tolist())


def test_scratch_start() -> None:
    model = LanguageModel(
        ModelSettings(hidden=64, bias="single", initialization="normal", embedding=0, dropout=0.0), 50
    )
    names = {n for n, _ in model.named_parameters()}
    assert names == {"gru.weight_ih_l0", "gru.weight_hh_l0", "gru.bias_ih_l0", "head.weight", "head.bias"}
    for name, parameter in model.named_parameters():
        if "bias" in name:
            assert not parameter.any()
        else:
            assert 0.009 < parameter.std() < 0.011


def test_dropout_before_the_head() -> None:
    model = LanguageModel(ModelSettings(hidden=H, dropout=0.5, embedding=0), V)
    tokens = torch.randint(V, (T, B))
    assert not torch.equal(model(tokens)[0], model(tokens)[0])
    model.eval()
    assert torch.equal(model(tokens)[0], model(tokens)[0])


@pytest.mark.parametrize("training", [False, True])
def test_losses(training: bool) -> None:
    """Mean over a text equals one pass over it; dropout is off, and the mode is what it was."""
    model = LanguageModel(ModelSettings(hidden=H, dropout=0.5, embedding=0), V).train(training)
    ids = np.random.default_rng(0).integers(V, size=300)
    found = evaluate(losses_of(model), ids, rows=1, steps=7)
    assert model.training == training
    model.eval()
    with torch.no_grad():
        logits, _ = model(torch.from_numpy(ids[:-1, None]))
    expected = nn.functional.cross_entropy(logits[:, 0].double(), torch.from_numpy(ids[1:]))
    assert found.loss == pytest.approx(expected.item(), rel=1e-5)
    assert found.tokens == 299
