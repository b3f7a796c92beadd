"""The definition: against torch.nn.GRU, against a NumPy transcription of the textbook's formulas, and gradcheck."""

import numpy as np
import pytest
import torch
from torch import Tensor

from headgate import equations
from tests.helpers.definition import unbundled

T, B, I, H = 5, 3, 4, 6  # noqa: E741


def weights(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"weight_ih": (3 * H, I), "weight_hh": (3 * H, H), "bias_ih": (3 * H,), "bias_hh": (3 * H,)}
    return {
        k: torch.randn(s, generator=generator, dtype=torch.float64).mul_(0.5).requires_grad_()
        for k, s in shapes.items()
    }


def inputs() -> tuple[Tensor, Tensor]:
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    return x, torch.randn(B, H, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_after_is_torch_nn_gru(assert_close, bias: bool, reverse: bool) -> None:
    w, (x, h0) = weights(), inputs()
    if not bias:
        w = {k: v for k, v in w.items() if not k.startswith("bias")}
    theirs = torch.nn.GRU(I, H, bias=bias).double()
    theirs.load_state_dict({k + "_l0": v.detach() for k, v in w.items()})

    states, last = unbundled(equations.sequence)(x, h0, **w, reverse=reverse)
    expected, expected_last = theirs(x.flip(0) if reverse else x, h0[None])
    expected = expected.flip(0) if reverse else expected
    assert_close("states", states, expected, 1e-12)
    assert_close("last", last, expected_last[0], 1e-12)

    probe = torch.randn_like(states)
    leaves = [x, h0, *w.values()]
    ours = torch.autograd.grad((states * probe).sum() + last.square().sum(), leaves)
    reference = torch.autograd.grad(
        (expected * probe).sum() + expected_last.square().sum(), [x, h0, *(getattr(theirs, k + "_l0") for k in w)]
    )
    for name, mine, other in zip(("x", "h0", *w), ours, reference, strict=True):
        assert_close("d" + name, mine, other, 1e-12)


def sigmoid(v: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-v))


def test_before_is_the_textbook(assert_close) -> None:
    """Separate matrices that multiply from the right, as the chapter writes them."""
    w, (x, h0) = weights(), inputs()
    W_xr, W_xz, W_xh = (m.detach().numpy().T for m in w["weight_ih"].split(H))
    W_hr, W_hz, W_hh = (m.detach().numpy().T for m in w["weight_hh"].split(H))
    b_r, b_z, b_h = (m.detach().numpy() for m in (w["bias_ih"] + w["bias_hh"]).split(H))
    Hidden, expected = h0.detach().numpy(), []
    for X in x.detach().numpy():
        Z = sigmoid(X @ W_xz + Hidden @ W_hz + b_z)
        R = sigmoid(X @ W_xr + Hidden @ W_hr + b_r)
        candidate = np.tanh(X @ W_xh + (R * Hidden) @ W_hh + b_h)
        Hidden = Z * Hidden + (1 - Z) * candidate
        expected.append(Hidden)
    states, last = unbundled(equations.sequence)(x, h0, **w, reset="before")
    assert_close("states", states, torch.from_numpy(np.stack(expected)), 1e-14)
    assert_close("last", last, torch.from_numpy(Hidden), 1e-14)


def test_the_variants_differ() -> None:
    w, (x, h0) = weights(), inputs()
    after, before = (unbundled(equations.sequence)(x, h0, **w, reset=r)[1] for r in ("after", "before"))
    assert (after - before).abs().max() > 0.01


@pytest.mark.parametrize("reset", ["after", "before"])
def test_gradients(reset: str) -> None:
    w, (x, h0) = weights(), inputs()

    def f(*leaves: Tensor) -> tuple[Tensor, Tensor]:
        return unbundled(equations.sequence)(leaves[0][:2], *leaves[1:], reset=reset)

    assert torch.autograd.gradcheck(f, (x, h0, *w.values()), raise_exception=True)
    assert torch.autograd.gradgradcheck(f, (x, h0, *w.values()), raise_exception=True)


@pytest.mark.parametrize("reset", ["after", "before"])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_ids_are_one_hot_vectors(assert_close, reset: str, dtype: torch.dtype) -> None:
    w, (_, h0) = weights(), inputs()
    ids = torch.tensor([[0, 3, 3], [1, 2, 0]], dtype=dtype)  # repeated ids: their gradients add up
    one_hot = torch.nn.functional.one_hot(ids.long(), I).double()
    results = []
    for x in (ids, one_hot):
        states, last = unbundled(equations.sequence)(x, h0, **w, reset=reset)
        results.append((states, *torch.autograd.grad(states.square().sum() + last.sum(), [h0, *w.values()])))
    for name, mine, other in zip(("states", "dh0", *w), *results, strict=True):
        assert_close(name, mine, other, 1e-13)
    assert torch.autograd.gradcheck(
        lambda *leaves: unbundled(equations.sequence)(ids, *leaves, reset=reset), (h0, *w.values())
    )


def test_update_gate_keeps_and_replaces() -> None:
    h = torch.randn(B, H)
    a = torch.zeros(B, 3 * H)
    a[:, H : 2 * H] = 100.0
    assert torch.equal(equations.step(a, h, torch.zeros(3 * H, H)), h)  # z = 1 keeps
    a[:, H : 2 * H] = -100.0
    assert torch.equal(equations.step(a, h, torch.zeros(3 * H, H)), torch.zeros(B, H))  # z = 0: n = tanh(0)


def test_empty_sequence() -> None:
    w, (x, h0) = weights(), inputs()
    states, last = unbundled(equations.sequence)(x[:0], h0, **w)
    assert states.shape == (0, B, H)
    assert torch.equal(last, h0)


def test_unknown_variant() -> None:
    w, (x, h0) = weights(), inputs()
    with pytest.raises(ValueError, match="reset must be"):
        unbundled(equations.sequence)(x, h0, **w, reset="never")


def test_float32() -> None:
    w, (x, h0) = weights(), inputs()
    exact = unbundled(equations.sequence)(x, h0, **w)[0]
    single = unbundled(equations.sequence)(x.float(), h0.float(), **{k: v.float() for k, v in w.items()})[0]
    assert single.dtype == torch.float32
    assert (single - exact).abs().max() < 1e-6
