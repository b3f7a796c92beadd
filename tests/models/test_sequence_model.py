"""SequenceModel: values and gradients against the definition, row by row; the same bits alone and in any batch."""

import copy
import itertools
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from headgate import GRU, SequenceModel, equations, native
from headgate.layers.functional import BACKENDS
from headgate.models.sequence_model import POOLS

T, B, I, H, O = 7, 5, 3, 6, 4  # noqa: E741
LENGTHS = [7, 0, 4, 1, 6]

needs_library = pytest.mark.skipif(native.find() is None, reason="the compiled library is missing")


def summary_of(model: SequenceModel, x: Tensor) -> Tensor:
    """Return the summary (D*H,) of one sequence (n, I) by the definition, without batch and padding."""
    D = 2 if model.gru.bidirectional else 1
    if not len(x):
        return x.new_zeros(D * model.gru.hidden_size)
    states, ends = x, []
    for layer in range(model.gru.num_layers):
        directions, ends = [], []
        for reverse in (False, True)[:D]:
            suffix = f"_l{layer}" + "_reverse" * reverse
            weights = [getattr(model.gru, name + suffix) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            h0 = x.new_zeros(1, model.gru.hidden_size)
            options = equations.Options(model.gru.reset, reverse)
            result, _ = equations.sequence(states[:, None], h0, equations.Weights(*weights), options)
            directions.append(result[:, 0])
            ends.append(result[0 if reverse else -1, 0])
        states = torch.cat(directions, -1)
    if model.pool == "last":
        return torch.cat(ends)
    return states.sum(0) / len(states) if model.pool == "mean" else states.max(0).values


def definition(model: SequenceModel, x: Tensor, lengths: list[int]) -> Tensor:
    rows = [summary_of(model, row[:length]) for row, length in zip(x, lengths, strict=True)]
    return torch.stack([model.head.weight @ row + model.head.bias for row in rows])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("pool", "bidirectional", "layers", "reset"),
    list(itertools.product(POOLS, (False, True), (1, 2), ("after", "before"))),
)
def test_values_and_gradients_follow_the_definition(
    assert_close, pool: str, bidirectional: bool, layers: int, reset: str, training: bool
) -> None:
    model = SequenceModel(I, H, O, layers, bidirectional=bidirectional, pool=pool, reset=reset).double().train(training)
    x = torch.randn(B, T, I, dtype=torch.float64, requires_grad=True)
    leaves = {"x": x, **dict(model.named_parameters())}
    weight = torch.randn(B, O, dtype=torch.float64)
    for lengths in (LENGTHS, torch.tensor(LENGTHS), None):
        mine = model(x, lengths)
        other = definition(model, x, [T] * B if lengths is None else LENGTHS)
        assert_close("outputs", mine.detach(), other.detach(), 1e-12)
        gradients = [torch.autograd.grad((y * weight).sum() + y.square().sum(), leaves.values()) for y in (mine, other)]
        for name, actual, expected in zip(leaves, *gradients, strict=True):
            assert_close(f"d{name}", actual, expected, 1e-11)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_backends_agree(assert_close, pool: str, bidirectional: bool) -> None:
    model = SequenceModel(I, H, O, 2, bidirectional=bidirectional, pool=pool)
    x, lengths = torch.randn(B, T, I), torch.tensor(LENGTHS)
    expected = definition(copy.deepcopy(model).double(), x.double(), LENGTHS).detach()
    for backend in BACKENDS:
        if backend == "native" and native.find() is None:
            continue
        other = SequenceModel(I, H, O, 2, bidirectional=bidirectional, pool=pool, backend=backend)
        other.load_state_dict(model.state_dict())
        assert_close(backend, other(x, lengths).detach(), expected, 2e-6)


@pytest.mark.parametrize("pool", POOLS)
def test_no_steps(pool: str) -> None:
    """The summary of no steps is zero and the output the bias, even if the whole batch has no steps."""
    for x, lengths in ((torch.randn(B, 0, I), None), (torch.randn(B, 0, I), [0] * B), (torch.randn(B, T, I), [0] * B)):
        for training in (False, True):
            model = SequenceModel(I, H, O, pool=pool, bidirectional=True).train(training)
            assert torch.equal(model(x, lengths), model.head.bias.expand(B, O))


@pytest.mark.parametrize("pool", POOLS)
def test_no_rows(pool: str) -> None:
    model = SequenceModel(I, H, O, pool=pool)
    for training in (False, True):
        assert model.train(training)(torch.randn(0, T, I)).shape == (0, O)
        assert model(torch.randn(0, T, I), lengths=[]).shape == (0, O)


VARIANTS = list(itertools.product(POOLS, (False, True), (1, 2)))


def trained(pool: str, bidirectional: bool, layers: int, hidden: int = 37, **options: Any) -> SequenceModel:
    """Return a model in evaluation mode, of a size that is no multiple of a vector."""
    return SequenceModel(I, hidden, O, layers, pool=pool, bidirectional=bidirectional, **options).eval()


@needs_library
@pytest.mark.parametrize(("pool", "bidirectional", "layers"), VARIANTS)
def test_same_bits_at_any_position_of_a_batch(pool: str, bidirectional: bool, layers: int) -> None:
    model = trained(pool, bidirectional, layers)
    x = torch.randn(B, T, I)
    with torch.inference_mode():
        together = model(x, LENGTHS)
        for row, length in enumerate(LENGTHS):
            alone = x[row : row + 1, :length]
            for answer in (
                model(alone)[0],
                model(alone, [length])[0],
                model(x[row : row + 1], [length])[0],
                model(x[row, :length]),
                model(x[row], length),
                model(x[row], torch.tensor([length])),
            ):
                assert torch.equal(answer, together[row]), row
        order = torch.tensor([3, 0, 4, 1, 2, 0, 0, 3])
        assert torch.equal(model(x[order], torch.tensor(LENGTHS)[order]), together[order])
        longer = torch.cat([x, torch.randn(B, 20, I)], 1)
        assert torch.equal(model(longer, LENGTHS), together)
        assert torch.equal(model(x, [T] * B), model(x))


@needs_library
@given(
    B=st.integers(2, 40), T=st.integers(1, 12), hidden=st.integers(1, 70), outputs=st.integers(1, 9),
    pool=st.sampled_from(POOLS), bidirectional=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_same_bits_for_any_sizes(
    B: int, T: int, hidden: int, outputs: int, pool: str, bidirectional: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    model = SequenceModel(I, hidden, outputs, pool=pool, bidirectional=bidirectional).eval()
    x, lengths = torch.randn(B, T, I), torch.randint(0, T + 1, (B,))
    with torch.inference_mode():
        together = model(x, lengths)
        for row in {0, B // 2, B - 1}:
            assert torch.equal(model(x[row : row + 1, : lengths[row]])[0], together[row])


@needs_library
@pytest.mark.parametrize(("pool", "bidirectional", "layers"), VARIANTS)
def test_values_beyond_the_end_have_no_effect(pool: str, bidirectional: bool, layers: int) -> None:
    model = trained(pool, bidirectional, layers)
    x = torch.randn(B, T, I)
    expected = model(x, LENGTHS)
    beyond = torch.arange(T) >= torch.tensor(LENGTHS)[:, None]
    for garbage in (1e30, float("nan"), float("inf")):
        dirty = torch.where(beyond[..., None], garbage, x).requires_grad_()
        actual = model(dirty, LENGTHS)
        assert torch.equal(actual, expected)
        actual.sum().backward()
        assert torch.equal(dirty.grad[beyond], torch.zeros(int(beyond.sum()), I))
        assert dirty.grad[~beyond].abs().sum() > 0
        for name, parameter in model.named_parameters():
            assert parameter.grad.isfinite().all(), name


@needs_library
@pytest.mark.parametrize(("pool", "bidirectional", "layers"), VARIANTS)
def test_batch_first(pool: str, bidirectional: bool, layers: int) -> None:
    model, other = (trained(pool, bidirectional, layers, batch_first=first) for first in (True, False))
    other.load_state_dict(model.state_dict())
    x = torch.randn(B, T, I)
    for lengths in (LENGTHS, None):
        assert torch.equal(other(x.transpose(0, 1), lengths), model(x, lengths))
    assert torch.equal(other(x[2]), model(x[2]))  # without a batch, both layouts are the same


@needs_library
@pytest.mark.parametrize("pool", POOLS)
def test_threads(pool: str) -> None:
    model = trained(pool, True, 2, hidden=64)
    x, lengths = torch.randn(40, T, I), torch.randint(0, T + 1, (40,))
    result = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        result.append(model(x, lengths))
    assert torch.equal(*result)


def test_ids_are_one_hot(assert_close) -> None:
    model = SequenceModel(I, H, O, bidirectional=True, pool="mean").double()
    ids = torch.randint(I, (B, T))
    one_hot = nn.functional.one_hot(ids, I).double()
    assert_close("ids", model(ids, LENGTHS).detach(), model(one_hot, LENGTHS).detach(), 1e-12)


def test_names_and_shapes() -> None:
    model = SequenceModel(I, H, O, 2, bidirectional=True)
    gru = GRU(I, H, 2, bidirectional=True)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert shapes == {
        **{f"gru.{name}": tuple(value.shape) for name, value in gru.state_dict().items()},
        "head.weight": (O, 2 * H),
        "head.bias": (O,),
    }
    assert list(shapes)[-2:] == ["head.weight", "head.bias"]


def test_options_reach_the_layer() -> None:
    model = SequenceModel(
        I, H, O, 2, batch_first=False, dropout=0.25, reset="before", bias="single", backend="equations",
        dtype=torch.float64,
    )  # fmt: skip
    expected = GRU(I, H, 2, dropout=0.25, reset="before", bias="single", batch_invariant=False, backend="equations")
    assert repr(model.gru) == repr(expected)
    assert model.dropout.p == 0.25
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert SequenceModel(I, H, O, device="meta").head.weight.is_meta


@pytest.mark.parametrize("layers", [1, 2])
def test_dropout_acts_in_training_only(layers: int) -> None:
    """Dropout acts on the summary even with one layer, without a warning about it."""
    model = SequenceModel(I, H, O, layers, dropout=0.5)
    x = torch.randn(B, T, I)
    assert not torch.equal(model(x), model(x))
    torch.manual_seed(4)
    first = model(x)
    torch.manual_seed(4)
    assert torch.equal(model(x), first)
    model.eval()
    assert torch.equal(model(x), model(x))
    without = SequenceModel(I, H, O, layers).eval()
    without.load_state_dict(model.state_dict())
    assert torch.equal(model(x), without(x))


def test_dropout_of_the_summary() -> None:
    """With an identity head, half of the summary is zero and the rest doubled."""
    model = SequenceModel(I, H, H, dropout=0.5)
    nn.init.eye_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    x = torch.randn(50, T, I)
    dropped = model(x)
    kept = dropped != 0
    assert 0.35 < kept.float().mean() < 0.65
    torch.testing.assert_close(dropped[kept], 2 * model.eval()(x)[kept])


@pytest.mark.parametrize("pool", ["", "Last", "sum", None, 3])
def test_unknown_pool_is_refused(pool: Any) -> None:
    with pytest.raises(ValueError, match=f"^pool must be one of last, mean, max, got {pool!r}$"):
        SequenceModel(I, H, O, pool=pool)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize(
    ("x", "lengths", "error"),
    [
        (torch.zeros(B, T, I + 1), None, RuntimeError),
        (torch.zeros(B, T, 1, I), None, ValueError),
        (torch.zeros(B, T, I), [T + 1, *LENGTHS[1:]], RuntimeError),
        (torch.zeros(B, T, I), [-1, *LENGTHS[1:]], RuntimeError),
        (torch.zeros(B, T, I), LENGTHS[:3], RuntimeError),
        (torch.zeros(B, T, I), [float(length) for length in LENGTHS], RuntimeError),
        (torch.zeros(T, I), [3, 4], RuntimeError),
        (torch.zeros(B, T, I, dtype=torch.complex64), None, ValueError),
    ],
)
def test_errors_of_the_layer_are_passed_on(pool: str, x: Tensor, lengths: Any, error: type[Exception]) -> None:
    for training in (True, False):
        with pytest.raises(error):
            SequenceModel(I, H, O, pool=pool).train(training)(x, lengths)


@pytest.mark.parametrize("pool", POOLS)
def test_copies(pool: str) -> None:
    model = SequenceModel(I, H, O, 2, bidirectional=True, pool=pool, reset="before").eval()
    x = torch.randn(B, T, I)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x, LENGTHS), model(x, LENGTHS))
        nn.init.zeros_(other.head.weight)
        assert model.head.weight.abs().sum() > 0


@pytest.mark.parametrize("pool", POOLS)
def test_export(pool: str) -> None:
    """One program serves any batch size and number of steps."""
    model = trained(pool, True, 1, hidden=H)
    batch, steps = torch.export.Dim("batch", min=2, max=64), torch.export.Dim("steps", min=2, max=64)
    program = torch.export.export(
        model, (torch.randn(B, T, I), torch.tensor(LENGTHS)), dynamic_shapes=({0: batch, 1: steps}, {0: batch})
    )
    x, lengths = torch.randn(B + 4, T + 3, I), torch.tensor([1, 0, 10, 3, 5, 2, 9, 7, 4])
    assert torch.equal(program.module()(x, lengths), model(x, lengths))


@pytest.mark.parametrize("pool", POOLS)
def test_compile(assert_close, pool: str) -> None:
    """One program serves any batch size, in training too, without recompiling."""
    torch.compiler.reset()
    model = SequenceModel(I, H, O, bidirectional=True, pool=pool)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=True)
    try:
        for rows, steps in ((5, 11), (8, 9)):
            with torch._dynamo.config.patch(error_on_recompile=True):
                x, lengths = torch.randn(rows, steps, I), torch.randint(0, steps + 1, (rows,))
                results = []
                for module in (model, compiled):
                    answer = module(x, lengths)
                    gradients = torch.autograd.grad(answer.square().sum(), list(model.parameters()))
                    results.append((answer.detach(), *gradients))
                for actual, expected in zip(*results, strict=True):
                    assert_close(f"{rows} rows", actual, expected, 1e-6)
    finally:
        torch.compiler.reset()
