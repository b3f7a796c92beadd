"""gru(): each backend against the float64 definition (values, all gradients, awkward shapes), and argument checks."""

import itertools
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from headgate import equations, native
from headgate.layers import functional
from headgate.layers.functional import BACKENDS, gru
from tests.helpers.definition import unbundled
from tests.helpers.levels import levels


@pytest.fixture(
    params=["equations", "torch", *(f"native {native.LEVELS[level]}" for level in levels())],
)
def backend(request) -> str:
    """Each backend, and the native one at each level."""
    name, _, level = request.param.partition(" ")
    if not level:
        yield name
        return
    library = native.load()
    best = library.headgate_level()
    assert library.headgate_use_level(native.LEVELS.index(level)) == 0
    yield name
    library.headgate_use_level(best)


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
    lengths: bool = False
    resets: str = ""  # zeros, learned: the state after a reset
    gates: bool = False

    def __str__(self) -> str:
        text = f"T{self.T}-B{self.B}-I{self.I}-H{self.H}-{self.bias}"
        text += "-ids" * self.ids + "-zeros" * (not self.h0) + "-strided" * (not self.contiguous)
        return text + "-lengths" * self.lengths + f"-resets-{self.resets}" * bool(self.resets) + "-gates" * self.gates


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
    Case(0, 3, 4, 6, ids=True),
    Case(3, 4, 40, 6, ids=True),  # fewer tokens than half of all ids: no table of all ids
    Case(9, 130, 3, 5),  # more rows than a group, several chunks of tokens
    Case(140, 9, 5, 10, ids=True),
    Case(6, 5, 3, 7, lengths=True),
    Case(6, 5, 3, 7, ids=True, lengths=True),
    Case(150, 9, 3, 4, lengths=True, resets="learned"),
    Case(8, 4, 3, 9, resets="zeros"),
    Case(8, 4, 3, 9, resets="learned", bias="single"),
    Case(7, 5, 3, 12, lengths=True, resets="learned", gates=True),
    Case(4, 3, 5, 6, gates=True),
]


def arguments(case: Case) -> dict[str, Tensor | None]:
    T, B, I, H = case.T, case.B, case.I, case.H  # noqa: E741
    generator = torch.Generator().manual_seed(T * 1000 + B * 100 + H)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = torch.randint(I, (T, B), generator=generator) if case.ids else draw(T, B, I)
    options: dict[str, Tensor | bool | None] = {}
    if case.lengths:
        options["lengths"] = torch.randint(T + 1, (B,), generator=generator)
        options["lengths"][1], options["lengths"][-1] = 0, T
    if case.resets:
        options["resets"] = torch.rand(T, B, generator=generator) < 0.3
    if case.resets == "learned":
        options["reset_state"] = draw(H)
    if case.gates:
        options["return_gates"] = True
    h0 = draw(B, H) if case.h0 else torch.zeros(B, H, dtype=torch.float64)
    return {
        "x": x if case.contiguous else x.transpose(0, 1).contiguous().transpose(0, 1),
        "h0": h0 if case.contiguous else h0.t().contiguous().t(),
        "weight_ih": draw(3 * H, I) / I**0.5,
        "weight_hh": draw(3 * H, H)
        / H**0.5,  # larger weights make the recurrence chaotic, and rounding would grow with T
        "bias_ih": None if case.bias == "none" else draw(3 * H),
        "bias_hh": draw(3 * H) if case.bias == "both" else None,
        **options,
    }


def run(function, values: dict[str, Tensor | None], dtype: torch.dtype, **options) -> dict[str, Tensor]:
    """Return the outputs, and the gradients of a fixed scalar function of them."""
    leaves = {
        k: v.to(dtype).detach().requires_grad_() if isinstance(v, Tensor) and v.is_floating_point() else v
        for k, v in values.items()
    }
    states, last, *gates = function(**leaves, **options)
    scalar = last.square().sum()
    for output in (states, *gates):
        weight = torch.linspace(-1, 1, max(output.numel(), 1), dtype=dtype)[: output.numel()].view(output.shape)
        scalar = scalar + (output * weight).sum()
    differentiable = {k: v for k, v in leaves.items() if isinstance(v, Tensor) and v.requires_grad}
    gradients = torch.autograd.grad(scalar, list(differentiable.values()), allow_unused=True)
    result = {"states": states.detach(), "last": last.detach()}
    if gates:
        result["gates"] = gates[0].detach()
    return result | {
        "d" + k: torch.zeros_like(v) if g is None else g
        for (k, v), g in zip(differentiable.items(), gradients, strict=True)
    }


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("reset", ["after", "before"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_parity(assert_close, case: Case, reset: str, reverse: bool, backend: str) -> None:
    values = arguments(case)
    expected = run(unbundled(equations.sequence), values, torch.float64, reset=reset, reverse=reverse)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-5)):
        actual = run(gru, values, dtype, reset=reset, reverse=reverse, backend=backend)
        assert actual.keys() == expected.keys()
        for name in expected:
            scale = max(float(expected[name].abs().max()) if expected[name].numel() else 0.0, 1.0)
            assert_close(f"{name} ({dtype})", actual[name], expected[name], tolerance * scale)
            assert actual[name].dtype == dtype


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("reset", ["after", "before"])
@pytest.mark.parametrize(
    "case",
    [Case(3, 2, 4, 3), Case(3, 2, 4, 3, ids=True), Case(4, 3, 2, 3, lengths=True, resets="learned", gates=True)],
    ids=str,
)
def test_double_backward(name: str, reset: str, case: Case) -> None:
    values = arguments(case)
    names = [k for k, v in values.items() if isinstance(v, Tensor) and v.is_floating_point()]

    def f(*new: Tensor) -> tuple[Tensor, ...]:
        return gru(**{**values, **dict(zip(names, new, strict=True))}, reset=reset, backend=name)

    assert torch.autograd.gradgradcheck(f, [values[k].requires_grad_() for k in names])


@pytest.mark.parametrize("reset", ["after", "before"])
@pytest.mark.parametrize(
    "case", [Case(9, 33, 4, 70), Case(9, 3, 4, 70), Case(140, 17, 40, 33, ids=True, lengths=True)], ids=str
)
def test_same_bits_for_any_number_of_threads(case: Case, reset: str) -> None:
    values, result = arguments(case), []
    for threads in (1, 2, 3, 1):
        torch.set_num_threads(threads)
        result.append(run(gru, values, torch.float32, reset=reset, backend="native"))
    for other in result[1:]:
        for name, value in result[0].items():
            assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("reset", ["after", "before"])
@pytest.mark.parametrize("H", [5, 64, 130])
def test_same_bits_for_a_row_alone(H: int, reset: str) -> None:
    values = {k: v.float() for k, v in arguments(Case(7, 70, 40, H)).items()}
    states, last = gru(**values, reset=reset, backend="native")
    for rows in (slice(0, 1), slice(3, 5), slice(10, 13), slice(60, 70)):
        part = {**values, "x": values["x"][:, rows], "h0": values["h0"][rows]}
        alone = gru(**part, reset=reset, backend="native")
        assert torch.equal(alone[0], states[:, rows])
        assert torch.equal(alone[1], last[rows])


@pytest.mark.parametrize("reset", ["after", "before"])
@pytest.mark.parametrize("reverse", [False, True])
def test_lengths_and_resets_are_shorter_sequences(assert_close, reverse: bool, reset: str) -> None:
    """In the definition itself, a row with a length or resets equals the sequences that it consists of."""
    values = arguments(Case(9, 3, 4, 6))
    lengths, resets = torch.tensor([9, 4, 0]), torch.zeros(9, 3, dtype=torch.bool)
    resets[3, 0] = resets[5, 0] = resets[2, 1] = resets[6, 1] = True  # the last one is beyond the end of its row
    fresh = torch.randn(6, dtype=torch.float64)
    options = {"reset": reset, "reverse": reverse}
    states, last = unbundled(equations.sequence)(**values, **options, lengths=lengths, resets=resets, reset_state=fresh)
    for b, cuts in ((0, [0, 3, 5, 9]), (1, [0, 2, 4])):
        pieces = list(itertools.pairwise(cuts))
        for i, (begin, end) in enumerate(pieces):
            first = i == (len(pieces) - 1 if reverse else 0)
            part = {
                **values,
                "x": values["x"][begin:end, b : b + 1],
                "h0": values["h0"][b : b + 1] if first else fresh[None],
            }
            expected, expected_last = unbundled(equations.sequence)(**part, **options)
            assert_close(f"row {b}", states[begin:end, b], expected[:, 0], 1e-14)
        if reverse:
            begin, end = pieces[0]
            part = {**part, "x": values["x"][begin:end, b : b + 1], "h0": fresh[None]}
            expected_last = unbundled(equations.sequence)(**part, **options)[1]
        assert_close(f"last of row {b}", last[b], expected_last[0], 1e-14)
        assert not states[cuts[-1] :, b].any()
    assert torch.equal(last[2], values["h0"][2])


@pytest.mark.parametrize(
    "fault",
    ["swap r and z", "drop b_hn", "skip the last step"],
)
def test_the_comparison_detects_planted_faults(assert_close, fault: str) -> None:
    def faulty(x, h0, weight_ih, weight_hh, bias_ih, bias_hh):
        H = h0.shape[1]
        if fault == "swap r and z":
            order = torch.cat([torch.arange(H, 2 * H), torch.arange(H), torch.arange(2 * H, 3 * H)])
            weight_ih, weight_hh, bias_ih, bias_hh = (v[order] for v in (weight_ih, weight_hh, bias_ih, bias_hh))
        if fault == "drop b_hn":
            bias_hh = torch.cat([bias_hh[: 2 * H], bias_hh.new_zeros(H)])
        states, last = unbundled(equations.sequence)(x, h0, weight_ih, weight_hh, bias_ih, bias_hh)
        if fault == "skip the last step":
            states, last = torch.cat([states[:-1], states[-2:-1]]), states[-2]
        return states, last

    values = arguments(Case(5, 3, 4, 6))
    expected, actual = run(unbundled(equations.sequence), values, torch.float64), run(faulty, values, torch.float64)
    with pytest.raises(AssertionError, match="states differs"):
        assert_close("states", actual["states"], expected["states"], 1e-12)


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
        ({"x": torch.zeros(5, 3, 4).double()}, "x is torch.float64, h0 and the weights are torch.float32"),
        ({"bias_ih": torch.zeros(18).double()}, "bias_ih is torch.float64 on cpu, h0 is torch.float32 on cpu"),
        ({"bias_ih": torch.zeros(18, device="meta")}, "bias_ih is torch.float32 on meta, h0 is torch.float32 on cpu"),
        ({"x": torch.zeros(5, 3, 4, device="meta")}, "x is on meta, h0 and the weights are on cpu: move one of them"),
        ({"reset_state": torch.zeros(5)}, r"reset_state must be \(6,\), got \(5,\)"),
        ({"lengths": torch.tensor([5, 6, 0])}, "lengths must be from 0 to 5, got 0 to 6"),
        ({"lengths": torch.tensor([5, -1, 0])}, "lengths must be from 0 to 5, got -1 to 5"),
        (
            {"lengths": torch.tensor([5, 1])},
            r"lengths must be \(3,\) torch.int32 or torch.int64, got \(2,\) torch.int64",
        ),
        ({"lengths": torch.ones(3)}, r"lengths must be \(3,\) torch.int32 or torch.int64, got \(3,\) torch.float32"),
        ({"resets": torch.zeros(5, 3)}, r"resets must be \(5, 3\) torch.bool, got \(5, 3\) torch.float32"),
        ({"resets": torch.zeros(3, 5, dtype=torch.bool)}, r"resets must be \(5, 3\) torch.bool, got \(3, 5\)"),
    ],
)
def test_wrong_arguments_are_refused(change: dict[str, Tensor], message: str) -> None:
    values = {k: v.float() for k, v in arguments(Case(5, 3, 4, 6)).items()}
    with pytest.raises(RuntimeError, match=message):
        gru(**{**values, **change})


def test_unknown_choices_are_refused() -> None:
    values = arguments(Case(5, 3, 4, 6))
    with pytest.raises(ValueError, match=r'reset must be "after" or "before", got \'middle\''):
        gru(**values, reset="middle")
    with pytest.raises(ValueError, match="backend must be one of auto, equations, torch, native, got 'cuda'"):
        gru(**values, backend="cuda")


def test_backend_native_says_why_it_cannot_run(monkeypatch) -> None:
    values = {k: v.to("meta") for k, v in arguments(Case(5, 3, 4, 6)).items()}
    with pytest.raises(RuntimeError, match='backend "native" cannot run: the tensors are on meta'):
        gru(**values, backend="native")


def test_without_the_library(monkeypatch) -> None:
    """Installed without a compiler, "auto" warns once that it is slow, and forcing native says why it cannot run."""
    values = arguments(Case(5, 3, 4, 6))
    expected = gru(**values)[0]
    monkeypatch.setattr(native, "load", lambda: None)
    functional._say_that_it_is_slow.cache_clear()
    with pytest.warns(UserWarning, match="several times slower: .* not be built .*: install GCC or Clang, then"):
        assert (gru(**values)[0] - expected).abs().max() < 1e-12
    gru(**values)  # warnings are errors, so there is no second one
    with pytest.raises(RuntimeError, match='backend "native" cannot run: the compiled library is missing'):
        gru(**values, backend="native")
