"""gru(): every backend against the float64 definition, values and all gradients, over awkward shapes; its checks."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from headgate import equations
from headgate.functional import BACKENDS, gru


@dataclass(frozen=True)
class Case:
    T: int
    B: int
    I: int  # noqa: E741
    H: int
    bias: str = "both"  # both, single, none
    ids: bool = False
    h0: bool = True
    contiguous: bool = True

    def __str__(self) -> str:
        text = f"T{self.T}-B{self.B}-I{self.I}-H{self.H}-{self.bias}"
        return text + "-ids" * self.ids + "-zeros" * (not self.h0) + "-strided" * (not self.contiguous)


CASES = [
    Case(5, 3, 4, 6),
    Case(1, 4, 3, 7),
    Case(6, 1, 5, 8),
    Case(1, 1, 1, 1),
    Case(4, 2, 3, 1),
    Case(7, 5, 2, 63),
    Case(3, 33, 9, 17),
    Case(35, 2, 6, 64),
    Case(5, 3, 4, 6, bias="none"),
    Case(5, 3, 4, 6, bias="single"),
    Case(6, 3, 11, 5, ids=True),
    Case(4, 5, 7, 9, ids=True, bias="single"),
    Case(4, 5, 7, 9, ids=True, bias="none", h0=False),
    Case(5, 3, 4, 6, h0=False),
    Case(5, 3, 4, 6, contiguous=False),
    Case(3, 0, 4, 6),
    Case(0, 3, 4, 6),
]


def arguments(case: Case) -> dict[str, Tensor | None]:
    T, B, I, H = case.T, case.B, case.I, case.H  # noqa: E741
    generator = torch.Generator().manual_seed(T * 1000 + B * 100 + H)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = torch.randint(I, (T, B), generator=generator) if case.ids else draw(T, B, I)
    h0 = draw(B, H) if case.h0 else torch.zeros(B, H, dtype=torch.float64)
    return {
        "x": x if case.contiguous else x.transpose(0, 1).contiguous().transpose(0, 1),
        "h0": h0 if case.contiguous else h0.t().contiguous().t(),
        "weight_ih": draw(3 * H, I) / I**0.5,
        "weight_hh": draw(3 * H, H) / H**0.5,  # larger ones make the recurrence chaotic: rounding would grow with T
        "bias_ih": None if case.bias == "none" else draw(3 * H),
        "bias_hh": draw(3 * H) if case.bias == "both" else None,
    }


def run(function, values: dict[str, Tensor | None], dtype: torch.dtype, **options) -> dict[str, Tensor]:
    """Outputs and gradients of a fixed scalar of them."""
    leaves = {
        k: v.to(dtype).detach().requires_grad_() if v is not None and v.is_floating_point() else v
        for k, v in values.items()
    }
    states, last = function(**leaves, **options)
    weight = torch.linspace(-1, 1, max(states.numel(), 1), dtype=dtype)[: states.numel()].view(states.shape)
    scalar = (states * weight).sum() + last.square().sum()
    wanted = {k: v for k, v in leaves.items() if v is not None and v.requires_grad}
    gradients = torch.autograd.grad(scalar, list(wanted.values()), allow_unused=True)
    found = {"states": states.detach(), "last": last.detach()}
    return found | {
        "d" + k: torch.zeros_like(v) if g is None else g for (k, v), g in zip(wanted.items(), gradients, strict=True)
    }


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("reset", ["after", "before"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_parity(assert_close, case: Case, reset: str, reverse: bool, backend: str) -> None:
    values = arguments(case)
    expected = run(equations.sequence, values, torch.float64, reset=reset, reverse=reverse)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-5)):
        found = run(gru, values, dtype, reset=reset, reverse=reverse, backend=backend)
        assert found.keys() == expected.keys()
        for name in expected:
            scale = max(float(expected[name].abs().max()) if expected[name].numel() else 0.0, 1.0)
            assert_close(f"{name} ({dtype})", found[name], expected[name], tolerance * scale)
            assert found[name].dtype == dtype


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reset", ["after", "before"])
@pytest.mark.parametrize("ids", [False, True], ids=["dense", "ids"])
def test_double_backward(backend: str, reset: str, ids: bool) -> None:
    values = arguments(Case(3, 2, 4, 3, ids=ids))
    leaves = [v.requires_grad_() for v in values.values() if v.is_floating_point()]

    def f(*new: Tensor) -> tuple[Tensor, Tensor]:
        return gru(*([values["x"], *new] if ids else new), reset=reset, backend=backend)

    assert torch.autograd.gradgradcheck(f, leaves)


@pytest.mark.parametrize(
    "fault",
    ["swap r and z", "drop b_hn", "skip the last step"],
)
def test_the_comparison_sees_planted_faults(assert_close, fault: str) -> None:
    def faulty(x, h0, weight_ih, weight_hh, bias_ih, bias_hh):
        H = h0.shape[1]
        if fault == "swap r and z":
            order = torch.cat([torch.arange(H, 2 * H), torch.arange(H), torch.arange(2 * H, 3 * H)])
            weight_ih, weight_hh, bias_ih, bias_hh = (v[order] for v in (weight_ih, weight_hh, bias_ih, bias_hh))
        if fault == "drop b_hn":
            bias_hh = torch.cat([bias_hh[: 2 * H], bias_hh.new_zeros(H)])
        states, last = equations.sequence(x, h0, weight_ih, weight_hh, bias_ih, bias_hh)
        if fault == "skip the last step":
            states, last = torch.cat([states[:-1], states[-2:-1]]), states[-2]
        return states, last

    values = arguments(Case(5, 3, 4, 6))
    expected, found = run(equations.sequence, values, torch.float64), run(faulty, values, torch.float64)
    with pytest.raises(AssertionError, match="states differs"):
        assert_close("states", found["states"], expected["states"], 1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(5, 3, 9)}, r"x must be \(T, B, 4\), or \(T, B\) ids, got \(5, 3, 9\)"),
        ({"x": torch.zeros(5, 3)}, r"x must be \(T, B, 4\)"),
        ({"h0": torch.zeros(7, 6)}, r"h0 must be \(3, 6\), got \(7, 6\)"),
        ({"weight_ih": torch.zeros(17, 4)}, r"weight_ih must be \(18, 4\), got \(17, 4\)"),
        ({"weight_hh": torch.zeros(12, 6)}, r"weight_hh must be \(18, 6\), got \(12, 6\)"),
        ({"bias_ih": torch.zeros(6)}, r"bias_ih must be \(18,\), got \(6,\)"),
        ({"bias_hh": torch.zeros(6)}, r"bias_hh must be \(18,\), got \(6,\)"),
        ({"x": torch.full((5, 3), 4)}, "ids must be from 0 to 3, got 4 to 4"),
        ({"x": torch.full((5, 3), -1)}, "ids must be from 0 to 3, got -1 to -1"),
        ({"x": torch.zeros(5, dtype=torch.int64)}, r"ids must be \(T, B\), got \(5,\)"),
        ({"x": torch.zeros(5, 3, dtype=torch.bool)}, "ids must be int32 or int64, got torch.bool"),
    ],
)
def test_wrong_arguments(change: dict[str, Tensor], message: str) -> None:
    values = {k: v.float() for k, v in arguments(Case(5, 3, 4, 6)).items()}
    with pytest.raises(RuntimeError, match=message):
        gru(**{**values, **change})


def test_unknown_choices() -> None:
    values = arguments(Case(5, 3, 4, 6))
    with pytest.raises(ValueError, match=r'reset must be "after" or "before", got \'middle\''):
        gru(**values, reset="middle")
    with pytest.raises(ValueError, match="backend must be one of auto, equations, torch, got 'cuda'"):
        gru(**values, backend="cuda")
