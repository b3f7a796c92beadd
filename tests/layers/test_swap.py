"""swap() makes the GRUs of a model headgate's and back, in place, without changing what the model computes."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headgate import GRU, GRUCell, native, swap

T, B, I, H, V = 6, 3, 4, 5, 9  # noqa: E741


class Translator(nn.Module):
    """A sequence-to-sequence model: an encoder of two layers and a decoder of cells with attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(V, I)
        self.encoder = nn.GRU(I, H, num_layers=2, batch_first=True, dropout=0.3)
        self.decoder = nn.ModuleList([nn.GRUCell(I + H, H), nn.GRUCell(H, H, bias=False)])
        self.head = nn.Linear(H, V)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        read, states = self.encoder(self.embedding(source))
        states, logits = list(states), []
        for ids in target.T:
            attention = torch.softmax((read @ states[-1][:, :, None]).squeeze(2), 1)
            x = torch.cat([self.embedding(ids), (attention[:, None] @ read).squeeze(1)], 1)
            for layer, cell in enumerate(self.decoder):
                x = states[layer] = cell(x, states[layer])
            logits.append(self.head(x))
        return torch.stack(logits, 1)


def pair() -> tuple[Any, Any, tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    model = Translator().double()
    return model, copy.deepcopy(model), (torch.randint(V, (B, T)), torch.randint(V, (B, T - 1)))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, data: tuple[Tensor, Tensor], steps: int = 3) -> Tensor:
    torch.manual_seed(2)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(*data).flatten(0, 1), data[1].flatten()).backward()
        optimizer.step()
    return model.eval()(*data)


@pytest.mark.parametrize("back", [False, True])
def test_training_goes_on_with_the_same_optimizer(back: bool) -> None:
    plain, model, data = pair()
    before = [id(p) for p in model.parameters()]
    optimizers = [torch.optim.Adam(m.parameters(), 0.01) for m in (plain, model)]
    assert swap(model) == (("encoder", "decoder.0", "decoder.1"), {})
    assert (type(model.encoder), type(model.decoder[1])) == (GRU, GRUCell)
    for m, optimizer in zip((plain, model), optimizers, strict=True):
        train(m, optimizer, data)
    if back:
        assert swap(model, back=True).changed == ("encoder", "decoder.0", "decoder.1")
        assert (type(model.encoder), type(model.decoder[1])) == (nn.GRU, nn.GRUCell)
    for m in (plain, model):
        m.train()
    results = [train(m, optimizer, data) for m, optimizer in zip((plain, model), optimizers, strict=True)]
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=1e-10)
    assert [id(p) for p in model.parameters()] == before
    assert list(model.state_dict()) == list(plain.state_dict())


def test_a_gru_itself_keeps_hooks_names_and_training_flag() -> None:
    gru, seen = nn.GRU(I, H, bidirectional=True, bias=False).eval().requires_grad_(False), []
    gru.register_forward_hook(lambda module, *_: seen.append(type(module)))
    expected = gru(torch.ones(T, B, I))
    assert str(swap(gru)) == "swapped 1: (the model)"
    for value, reference in zip(gru(torch.ones(T, B, I)), expected, strict=True):
        torch.testing.assert_close(value, reference)
    assert seen == [nn.GRU, GRU]
    assert not gru.training
    assert not any(p.requires_grad for p in gru.parameters())
    assert repr(gru) == repr(nn.GRU(I, H, bidirectional=True, bias=False))


def test_a_swapped_model_is_copied_and_pickled() -> None:
    _, model, data = pair()
    expected = model.eval()(*data)
    swap(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(other(*data), expected)
        assert set(other.encoder.__dict__) == set(GRU(I, H).__dict__) | {"_given"}
    swap(model, back=True)
    assert set(model.encoder.__dict__) == set(nn.GRU(I, H).__dict__)
    assert [w.data_ptr() for w in model.encoder._flat_weights] == [p.data_ptr() for p in model.encoder.parameters()]


def test_what_cannot_be_swapped_is_named() -> None:
    class Own(nn.GRU):
        def forward(self, *inputs: Any) -> Any:
            return super().forward(*inputs)

    model = nn.ModuleDict({"own": Own(I, H), "lstm": nn.LSTM(I, H), "cell": nn.GRUCell(I, H), "norm": nn.GRU(I, H)})
    nn.utils.parametrizations.weight_norm(model["norm"], "weight_hh_l0")
    result = swap(model)
    assert result.changed == ("cell",)
    assert result.left == {
        "own": "Own is a subclass: derive it from headgate.GRU",
        "norm": "it is parametrized: swap before registering parametrizations",
    }
    assert str(result).splitlines()[1] == "left own: Own is a subclass: derive it from headgate.GRU"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"reset": "before"}, 'torch.nn.GRU has no reset="before"'),
        ({"bias": "single"}, 'torch.nn.GRU has no bias="single"'),
        ({"learned_state": True}, "torch.nn.GRU has no learned state"),
    ],
    ids=str,
)
def test_a_function_that_torch_lacks_is_not_swapped_back(options: dict[str, Any], reason: str) -> None:
    gru = GRU(I, H, **options)
    assert swap(gru, back=True) == ((), {"(the model)": reason})
    assert type(gru) is GRU


def test_something_else_is_refused() -> None:
    with pytest.raises(TypeError, match=r"swap needs a torch\.nn\.Module, got list"):
        swap([nn.GRU(I, H)])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.compile
@pytest.mark.skipif(native.load() is None, reason="the native library was not built")
def test_a_compiled_model_compiles_again() -> None:
    model = nn.Sequential(nn.GRU(I, H)).eval()
    x = torch.randn(T, B, I)
    compiled = torch.compile(model)
    expected = compiled(x)[0]
    assert swap(compiled).changed == ("_orig_mod.0",)
    torch.testing.assert_close(compiled(x)[0], expected)
