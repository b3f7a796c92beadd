"""GRUCell as a drop-in for torch.nn.GRUCell (values, gradients, names, repr, errors), and its extensions.

test_gru.py runs PyTorch's own inputs and errors for GRUCell.
"""

import copy
import pickle
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn

from headgate import GRU, equations
from headgate.layers.cell import GRUCell
from headgate.layers.functional import BACKENDS

B, I, H = 3, 4, 6  # noqa: E741


def value_and_gradients(h: Tensor, leaves: Iterable[Tensor]) -> list[Tensor]:
    weight = torch.linspace(-1, 2, h.numel(), dtype=h.dtype).view(h.shape)  # different for each entry
    return [h.detach(), *torch.autograd.grad((h * weight).sum(), list(leaves), retain_graph=True)]


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("hx", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize("batch", [(B,), (), (1,), (0,)], ids=str)
def test_torch_nn_gru_cell(assert_close, batch: tuple[int, ...], hx: bool, bias: bool, backend: str) -> None:
    theirs, ours = nn.GRUCell(I, H, bias).double(), GRUCell(I, H, bias, backend=backend).double()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x, h0 = draw(*batch, I), draw(*batch, H) if hx else None
    results = [
        value_and_gradients(cell(x, h0), [x, *([h0] if hx else []), *cell.parameters()]) for cell in (ours, theirs)
    ]
    for i, (value, expected) in enumerate(zip(*results, strict=True)):
        assert_close(f"{i}", value, expected, 1e-12)


@pytest.mark.parametrize("reset", ["after", "before"])
@pytest.mark.parametrize("bias", [True, "single", False])
@pytest.mark.parametrize("ids", [False, True], ids=["dense", "ids"])
def test_a_step_follows_the_equations(assert_close, ids: bool, bias: bool | str, reset: str) -> None:
    cell = GRUCell(I, H, bias, reset=reset).double()
    x, h0 = torch.tensor([3, 0, 2]) if ids else draw(B, I), draw(B, H)
    leaves = [h0, *([] if ids else [x]), *cell.parameters()]
    a = equations.project(x, cell.weight_ih, cell.bias_ih)
    expected = value_and_gradients(equations.step(a, h0, cell.weight_hh, cell.bias_hh, reset=reset), leaves)
    for i, (value, other) in enumerate(zip(value_and_gradients(cell(x, h0), leaves), expected, strict=True)):
        assert_close(f"{i}", value, other, 1e-12)


@pytest.mark.parametrize("kind", [torch.int32, torch.int64], ids=str)
def test_ids_are_one_hot(assert_close, kind: torch.dtype) -> None:
    cell, ids, h0 = GRUCell(I, H).double(), torch.tensor([3, 0, 2], dtype=kind), draw(B, H)
    one_hot = nn.functional.one_hot(ids.long(), I).double()
    for hx in (None, h0):
        leaves = [*([] if hx is None else [hx]), *cell.parameters()]
        results = [value_and_gradients(cell(x, hx), leaves) for x in (ids, one_hot)]
        for i, (value, expected) in enumerate(zip(*results, strict=True)):
            assert_close(f"{i}", value, expected, 1e-12)
    alone = cell(ids[0], h0[0])
    assert alone.shape == (H,)
    assert_close("unbatched", alone.detach(), cell(one_hot[0], h0[0]).detach(), 1e-12)


def test_steps_equal_a_sequence(assert_close) -> None:
    T, cell, gru = 5, GRUCell(I, H).double(), GRU(I, H).double()
    gru.load_state_dict({name + "_l0": value for name, value in cell.state_dict().items()})
    x, h = draw(T, B, I), draw(B, H)
    states, last = gru(x, h[None])
    for t in range(T):
        h = cell(x[t], h)
        assert_close(f"{t}", h.detach(), states[t].detach(), 1e-12)
    assert_close("last", h.detach(), last[0].detach(), 1e-12)


def test_same_seed_same_weights() -> None:
    torch.manual_seed(7)
    theirs = nn.GRUCell(I, H)
    torch.manual_seed(7)
    ours = GRUCell(I, H)
    assert list(ours.state_dict()) == list(theirs.state_dict()) == ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
    assert all(torch.equal(ours.state_dict()[name], value) for name, value in theirs.state_dict().items())
    ours.reset_parameters()
    theirs.reset_parameters()
    assert not torch.equal(ours.weight_ih, theirs.weight_ih)


def test_single_bias(assert_close) -> None:
    single, double = GRUCell(I, H, "single").double(), GRUCell(I, H).double()
    assert [n for n, _ in single.named_parameters()] == ["weight_ih", "weight_hh", "bias_ih"]
    assert single.bias_hh is None
    assert double.load_state_dict(single.state_dict(), strict=False).missing_keys == ["bias_hh"]
    nn.init.zeros_(double.bias_hh)
    x, h0 = draw(B, I), draw(B, H)
    assert_close("state", single(x, h0).detach(), double(x, h0).detach(), 1e-14)


def test_without_bias_equals_torch() -> None:
    for cell in (GRUCell(I, H, bias=False), nn.GRUCell(I, H, bias=False)):
        assert cell.bias_ih is None
        assert cell.bias_hh is None
        assert list(cell.state_dict()) == ["weight_ih", "weight_hh"]


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"bias": True}, {"dtype": torch.float64}], ids=str)
def test_repr(options: dict) -> None:
    assert repr(GRUCell(I, H, **options)) == repr(nn.GRUCell(I, H, **options))


def test_repr_of_extensions() -> None:
    cell = GRUCell(I, H, "single", reset="before", backend="native")
    assert repr(cell) == "GRUCell(4, 6, bias='single', reset='before', backend='native')"


def test_copies() -> None:
    cell, x = GRUCell(I, H, reset="before"), torch.randn(B, I)
    for other in (copy.deepcopy(cell), pickle.loads(pickle.dumps(cell))):
        assert torch.equal(other(x), cell(x))


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(half: torch.dtype) -> None:
    cell, x, h0 = GRUCell(I, H), torch.randn(B, I).to(half), torch.randn(B, H).to(half)
    for hx in (None, h0):
        state = cell(x, hx)
        assert state.dtype == torch.float32
        assert torch.equal(state, cell(x.float(), None if hx is None else hx.float()))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(cell(x, h0), cell(x.float(), h0.float()))
    narrow = copy.deepcopy(cell).to(half)
    wide = copy.deepcopy(narrow).float()
    assert narrow(x, h0).dtype == half
    assert torch.equal(narrow(x, h0), wide(x.float(), h0.float()).to(half))


@pytest.mark.parametrize(
    ("shape", "hx_shape", "message"),
    [
        ((), None, None),
        ((2, B, I), None, "GRUCell: Expected input to be 1D or 2D, got 3D instead"),
        ((B, I), (1, B, H), "GRUCell: Expected hidden to be 1D or 2D, got 3D instead"),
        ((B, I), (), "GRUCell: Expected hidden to be 1D or 2D, got 0D instead"),
        ((B, I + 1), None, "input has inconsistent input_size: got 5 expected 4"),
        ((I + 1,), None, "input has inconsistent input_size: got 5 expected 4"),
        ((B, I), (B, H + 1), "hidden0 has inconsistent hidden_size: got 7, expected 6"),
        ((I,), (H + 1,), "hidden0 has inconsistent hidden_size: got 7, expected 6"),
        ((B, I), (2, H), "Input batch size 3 doesn't match hidden0 batch size 2"),
    ],
)
def test_wrong_shapes_raise_as_in_torch(shape: tuple, hx_shape: tuple | None, message: str | None) -> None:
    arguments = torch.zeros(shape), None if hx_shape is None else torch.zeros(hx_shape)
    for cell in (GRUCell(I, H), nn.GRUCell(I, H)):
        with pytest.raises(
            ValueError if message is None or "Expected" in message else RuntimeError, match=message or "got 0D instead"
        ):
            cell(*arguments)


@pytest.mark.parametrize(
    ("shape", "hx_shape", "message"),
    [
        ((I,), (1, H), "For unbatched 1-D input, hx should be 1-D but got 2-D tensor"),
        ((1, I), (H,), "For batched 2-D input, hx should be 2-D but got 1-D tensor"),
        ((B, I), (H,), "For batched 2-D input, hx should be 2-D but got 1-D tensor"),
    ],
)
def test_a_batch_axis_on_one_side_only(shape: tuple, hx_shape: tuple, message: str) -> None:
    """torch.nn.GRUCell raises the same type with other sizes in the message."""
    with pytest.raises(RuntimeError, match=message):
        GRUCell(I, H)(torch.zeros(shape), torch.zeros(hx_shape))
    with pytest.raises(RuntimeError):
        nn.GRUCell(I, H)(torch.zeros(shape), torch.zeros(hx_shape))


def test_wrong_dtypes_raise_as_in_torch() -> None:
    x, h0 = torch.zeros(B, I), torch.zeros(B, H)
    for cell in (GRUCell(I, H), nn.GRUCell(I, H)):
        for arguments in ((x.double(),), (x.double(), h0.double()), (x, h0.double())):
            with pytest.raises(RuntimeError, match=r"dtype|float64"):
                cell(*arguments)


def test_wrong_ids_are_refused() -> None:
    with pytest.raises(RuntimeError, match="ids must be from 0 to 3, got 0 to 4"):
        GRUCell(I, H)(torch.tensor([0, 4]))
    with pytest.raises(ValueError, match="GRUCell: Expected ids to be 0D or 1D, got 2D instead"):
        GRUCell(I, H)(torch.zeros(B, I, dtype=torch.int64))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((0, H), {}, ValueError, "input_size must be greater than zero, got 0"),
        ((I, -1), {}, ValueError, "hidden_size must be greater than zero, got -1"),
        ((I, 2.5), {}, TypeError, "hidden_size should be of type int, got: float"),
        ((I, H), {"reset": "middle"}, ValueError, 'reset must be "after" or "before", got \'middle\''),
    ],
)
def test_impossible_arguments_are_refused(arguments: tuple, options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        GRUCell(*arguments, **options)
    with pytest.raises(ValueError, match=r"backend must be one of auto, .* got .nonsense."):
        GRUCell(I, H, backend="nonsense")(torch.zeros(B, I))


@pytest.mark.parametrize("bias", [True, False, "single"])
def test_is_an_rnncellbase(bias: bool | str) -> None:
    cell = GRUCell(I, H, bias)
    assert isinstance(cell, nn.RNNCellBase)
    assert [n for n, _ in cell.named_parameters()] == ["weight_ih", "weight_hh", "bias_ih", "bias_hh"][
        : {True: 4, False: 2, "single": 3}[bias]
    ]
    assert torch.equal(copy.deepcopy(cell)(torch.ones(B, I)), cell(torch.ones(B, I)))
