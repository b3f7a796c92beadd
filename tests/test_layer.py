"""GRU as a module: a drop-in for torch.nn.GRU (values, gradients, names, initialization, repr, errors), and more."""

import copy
import itertools
import pickle

import pytest
import torch
from torch import nn

from headgate import GRU
from headgate.functional import BACKENDS

T, B, I, H, L = 5, 3, 4, 6, 2  # noqa: E741


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("layers", "bidirectional", "batch_first", "bias"), list(itertools.product((1, 3), *[(False, True)] * 3))
)
def test_torch_nn_gru(
    assert_close, backend: str, layers: int, bidirectional: bool, batch_first: bool, bias: bool
) -> None:
    options = {"num_layers": layers, "bidirectional": bidirectional, "batch_first": batch_first, "bias": bias}
    theirs = nn.GRU(I, H, **options).double()
    ours = GRU(I, H, **options, backend=backend).double()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn((B, T, I) if batch_first else (T, B, I), dtype=torch.float64, requires_grad=True)
    h0 = torch.randn(layers * (1 + bidirectional), B, H, dtype=torch.float64, requires_grad=True)
    for hx in (None, h0):
        results = []
        for module in (ours, theirs):
            states, last = module(x, hx)
            leaves = [x, *([] if hx is None else [hx]), *module.parameters()]
            results.append((states, last, *torch.autograd.grad(states.square().sum() + last.sum(), leaves)))
        names = [
            "states",
            "last",
            "dx",
            *([] if hx is None else ["dh0"]),
            *(f"d{n}" for n, _ in ours.named_parameters()),
        ]
        for name, mine, other in zip(names, *results, strict=True):
            assert_close(name, mine.detach(), other.detach(), 1e-12)
            if name in ("states", "last"):
                assert mine.is_contiguous() == other.is_contiguous() or batch_first


@pytest.mark.parametrize("hx", [False, True])
def test_unbatched(assert_close, hx: bool) -> None:
    theirs, ours = nn.GRU(I, H, L, bidirectional=True), GRU(I, H, L, bidirectional=True)
    ours.load_state_dict(theirs.state_dict())
    x, h0 = torch.randn(T, I), torch.randn(2 * L, H) if hx else None
    for mine, other in zip(ours(x, h0), theirs(x, h0), strict=True):
        assert_close("unbatched", mine.detach(), other.detach(), 1e-6)


def test_same_seed_same_weights() -> None:
    torch.manual_seed(7)
    theirs = nn.GRU(I, H, L, bidirectional=True)
    torch.manual_seed(7)
    ours = GRU(I, H, L, bidirectional=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


def test_dropout_is_that_of_torch(assert_close) -> None:
    theirs, ours = nn.GRU(I, H, L, dropout=0.4), GRU(I, H, L, dropout=0.4)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(T, B, I)
    torch.manual_seed(3)
    mine = ours(x)[0]
    torch.manual_seed(3)
    assert_close("dropped", mine.detach(), theirs(x)[0].detach(), 1e-6)
    assert not torch.equal(ours(x)[0], ours(x)[0])
    ours.eval()
    assert torch.equal(ours(x)[0], ours(x)[0])


@pytest.mark.parametrize("reset", ["after", "before"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_ids(assert_close, reset: str, batch_first: bool) -> None:
    gru = GRU(I, H, L, reset=reset, batch_first=batch_first, bidirectional=True).double()
    ids = torch.randint(I, (B, T) if batch_first else (T, B))
    one_hot = nn.functional.one_hot(ids, I).double()
    results = []
    for x in (ids, one_hot):
        states, last = gru(x)
        results.append((states, last, *torch.autograd.grad(states.square().sum() + last.sum(), gru.parameters())))
    for mine, other in zip(*results, strict=True):
        assert_close("ids", mine.detach(), other.detach(), 1e-12)
    assert_close("unbatched", gru(ids[0])[0].detach(), gru(one_hot[0])[0].detach(), 1e-12)


def test_single_bias(assert_close) -> None:
    single, double = GRU(I, H, L, bias="single").double(), GRU(I, H, L).double()
    assert [n for n, _ in single.named_parameters()] == [n for n, _ in double.named_parameters() if "bias_hh" not in n]
    missing = double.load_state_dict(single.state_dict(), strict=False).missing_keys
    assert missing == ["bias_hh_l0", "bias_hh_l1"]
    for name in missing:
        nn.init.zeros_(double.get_parameter(name))
    x = torch.randn(T, B, I, dtype=torch.float64)
    assert_close("states", single(x)[0].detach(), double(x)[0].detach(), 1e-14)


def test_variants_differ() -> None:
    after, before = GRU(I, H), GRU(I, H, reset="before")
    before.load_state_dict(after.state_dict())
    x = torch.randn(T, B, I)
    assert (after(x)[0] - before(x)[0]).abs().max() > 1e-3


@pytest.mark.parametrize(
    "options",
    [{}, {"num_layers": 2, "dropout": 0.5}, {"bias": False}, {"batch_first": True, "bidirectional": True}],
)
def test_repr(options: dict) -> None:
    assert repr(GRU(I, H, **options)) == repr(nn.GRU(I, H, **options))


def test_repr_of_what_torch_lacks() -> None:
    assert repr(GRU(I, H, bias="single", reset="before")) == "GRU(4, 6, bias='single', reset='before')"


def test_copies() -> None:
    gru = GRU(I, H, L, reset="before")
    x = torch.randn(T, B, I)
    for other in (copy.deepcopy(gru), pickle.loads(pickle.dumps(gru))):
        assert torch.equal(other(x)[0], gru(x)[0])


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        ((I, 0), {}, ValueError),
        ((0, H), {}, ValueError),
        ((I, H, 0), {}, ValueError),
        ((I, 2.5), {}, TypeError),
        ((I, H), {"dropout": 1.5}, ValueError),
        ((I, H), {"dropout": True}, ValueError),
        ((I, H), {"batch_first": 1}, TypeError),
        ((I, H), {"bias": 1}, TypeError),
    ],
)
def test_impossible_arguments_as_torch(arguments: tuple, options: dict, error: type) -> None:
    for kind in (GRU, nn.GRU):
        with pytest.raises(error):
            kind(*arguments, **options)


def test_useless_dropout_warns() -> None:
    with pytest.warns(UserWarning, match="dropout acts between layers"):
        GRU(I, H, dropout=0.5)


@pytest.mark.parametrize(
    ("shape", "hx_shape", "message"),
    [
        ((T, B, I + 1), None, "input.size\\(-1\\) must be equal to input_size. Expected 4, got 5"),
        ((T, B, I), (1, B, H), r"Expected hidden size \(2, 3, 6\), got \[1, 3, 6\]"),
        (
            (T, B, I),
            (L, T, H),
            r"Expected hidden size \(2, 3, 6\), got \[2, 5, 6\] \(input \(5, 3, 4\) read as \(T, B, I\)",
        ),
        ((T, B, I), (L, H), "For batched 3-D input, hx should be 3-D but got 2-D tensor"),
        ((T, I), (L, B, H), "For unbatched 2-D input, hx should be 2-D but got 3-D tensor"),
        ((I,), None, "GRU: Expected input to be 2D or 3D, got 1D instead"),
        ((2, T, B, I), None, "GRU: Expected input to be 2D or 3D, got 4D instead"),
    ],
)
def test_wrong_shapes_as_torch(shape: tuple, hx_shape: tuple | None, message: str) -> None:
    arguments = torch.zeros(shape), None if hx_shape is None else torch.zeros(hx_shape)
    with pytest.raises((RuntimeError, ValueError), match=message) as ours:
        GRU(I, H, L)(*arguments)
    with pytest.raises((RuntimeError, ValueError)) as theirs:
        nn.GRU(I, H, L)(*arguments)
    assert ours.type is theirs.type


def test_wrong_dtype_as_torch() -> None:
    for module in (GRU(I, H), nn.GRU(I, H)):
        with pytest.raises(ValueError, match="does not match weight dtype"):
            module(torch.zeros(T, B, I, dtype=torch.float64))


def test_wrong_ids() -> None:
    with pytest.raises(RuntimeError, match="ids must be from 0 to 3, got 0 to 4"):
        GRU(I, H)(torch.tensor([[0], [4]]))
    with pytest.raises(ValueError, match="Expected ids to be 1D or 2D, got 3D instead"):
        GRU(I, H)(torch.zeros(T, B, I, dtype=torch.int64))


def test_no_bias_between_backends_and_empty_batch() -> None:
    states, last = GRU(I, H, L, bidirectional=True)(torch.zeros(T, 0, I))
    assert states.shape == (T, 0, 2 * H)
    assert last.shape == (2 * L, 0, H)
