"""GRU as a drop-in for torch.nn.GRU (values, gradients, names, initialization, repr, errors), and its extensions."""

import copy
import functools
import io
import itertools
import os
import pickle
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from headgate import GRU, equations
from headgate.layers.cell import GRUCell
from headgate.layers.functional import BACKENDS
from tests.helpers.definition import unbundled

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


def test_dropout_equals_that_of_torch(assert_close) -> None:
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


def test_repr_of_extensions() -> None:
    assert repr(GRU(I, H, bias="single", reset="before")) == "GRU(4, 6, bias='single', reset='before')"
    assert repr(GRU(I, H, batch_invariant=False)) == "GRU(4, 6, batch_invariant=False)"
    assert repr(GRU(I, H, learned_state=True, backend="native")) == "GRU(4, 6, learned_state=True, backend='native')"
    assert (
        repr(GRU(I, H, L, dropout=0.5, learned_state=True))
        == "GRU(4, 6, num_layers=2, dropout=0.5, learned_state=True)"
    )


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
def test_impossible_arguments_raise_as_in_torch(arguments: tuple, options: dict, error: type) -> None:
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
def test_wrong_shapes_raise_as_in_torch(shape: tuple, hx_shape: tuple | None, message: str) -> None:
    arguments = torch.zeros(shape), None if hx_shape is None else torch.zeros(hx_shape)
    with pytest.raises((RuntimeError, ValueError), match=message) as ours:
        GRU(I, H, L)(*arguments)
    with pytest.raises((RuntimeError, ValueError)) as theirs:
        nn.GRU(I, H, L)(*arguments)
    assert ours.type is theirs.type


def test_a_wrong_dtype_raises_as_in_torch() -> None:
    for module in (GRU(I, H), nn.GRU(I, H)):
        with pytest.raises(ValueError, match="does not match weight dtype"):
            module(torch.zeros(T, B, I, dtype=torch.float64))


def test_wrong_ids_are_refused() -> None:
    with pytest.raises(RuntimeError, match="ids must be from 0 to 3, got 0 to 4"):
        GRU(I, H)(torch.tensor([[0], [4]]))
    with pytest.raises(ValueError, match="Expected ids to be 1D or 2D, got 3D instead"):
        GRU(I, H)(torch.zeros(T, B, I, dtype=torch.int64))


def test_empty_batch() -> None:
    states, last = GRU(I, H, L, bidirectional=True)(torch.zeros(T, 0, I))
    assert states.shape == (T, 0, 2 * H)
    assert last.shape == (2 * L, 0, H)


def values_and_gradients(outputs: Sequence[Tensor], leaves: Iterable[Tensor]) -> list[Tensor]:
    """Return the outputs, and the gradients of their sum with different weights for all entries."""
    scalar = sum((v * torch.linspace(-1, 2, v.numel(), dtype=v.dtype).view(v.shape)).sum() for v in outputs)
    return [v.detach() for v in outputs] + list(torch.autograd.grad(scalar, list(leaves), retain_graph=True))


def definition(gru: GRU, x: Tensor, hx: Tensor | None = None, **options: Tensor) -> tuple[Tensor, ...]:
    """Run a GRU on (T, B, I) layer by layer with equations.sequence; return states, last, r, z, n."""
    last, gates, B = [], [], x.shape[1]
    for layer in range(gru.num_layers):
        both = []
        for suffix in (f"_l{layer}", f"_l{layer}_reverse")[: 1 + gru.bidirectional]:
            weights = [getattr(gru, f"{k}{suffix}", None) for k in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            start = getattr(gru, f"state{suffix}", None)
            zeros = torch.zeros(B, gru.hidden_size, dtype=weights[0].dtype)
            h0 = (zeros if start is None else zeros + start) if hx is None else hx[len(last)]
            states, h, rzn = unbundled(equations.sequence)(
                x, h0, *weights, reset=gru.reset, reverse="reverse" in suffix, reset_state=start, return_gates=True,
                **options,
            )  # fmt: skip
            both.append(states)
            last.append(h)
            gates.append(rzn)
        x = torch.cat(both, -1)
    return x, torch.stack(last), *torch.stack(gates).split(gru.hidden_size, -1)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


# PyTorch's database of modules: the inputs and errors with which it tests torch.nn.GRU and torch.nn.GRUCell


@pytest.fixture(scope="module")
def module_infos() -> dict[str, Any]:
    """Return the entries by class name, and undo the side effects of the import."""
    flags, environment = torch.backends.__allow_nonbracketed_mutation_flag, dict(os.environ)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_modules import module_db
    torch.backends.__allow_nonbracketed_mutation_flag = flags
    os.environ.clear()
    os.environ.update(environment)
    return {info.module_cls.__name__: info for info in module_db if info.module_cls in (nn.GRU, nn.GRUCell)}


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("kind", "number"), [(GRU, 32), (GRUCell, 2)])
def test_module_inputs_of_pytorch(
    assert_close, module_infos: dict[str, Any], kind: type, number: int, dtype: torch.dtype, training: bool
) -> None:
    info, tolerance = module_infos[kind.__name__], 1e-12 if dtype == torch.float64 else 1e-5
    packed_too = {"with_packed_sequence": True} if kind is GRU else {}
    samples = info.module_inputs_func(
        info, device="cpu", dtype=dtype, requires_grad=True, training=training, **packed_too
    )
    assert len(samples) >= number  # later versions of PyTorch may have more
    for sample in samples:
        positional, named = sample.constructor_input.args, sample.constructor_input.kwargs
        ours, theirs = (
            c(*positional, **named, device="cpu", dtype=dtype).train(training) for c in (kind, info.module_cls)
        )
        ours.load_state_dict(theirs.state_dict(), strict=True)
        theirs.load_state_dict(ours.state_dict(), strict=True)
        assert [(n, p.shape, p.dtype) for n, p in ours.named_parameters()] == [
            (n, p.shape, p.dtype) for n, p in theirs.named_parameters()
        ]
        inputs, options = sample.forward_input.args, sample.forward_input.kwargs
        leaves = [v.data if isinstance(v, PackedSequence) else v for v in inputs]

        def flat(output: Any) -> list[Tensor]:
            parts = [output] if isinstance(output, Tensor) else list(output)
            return [v.data if isinstance(v, PackedSequence) else v for v in parts]

        mine = flat(ours(*inputs, **options))
        expected = values_and_gradients(flat(theirs(*inputs, **options)), [*leaves, *theirs.parameters()])
        actual = values_and_gradients(mine, [*leaves, *ours.parameters()])
        for i, (value, other) in enumerate(zip(actual, expected, strict=True)):
            assert_close(f"{i} of {named}", value, other, tolerance * max(1.0, float(other.abs().max())))
            assert value.dtype == dtype
        if sample.reference_fn is not None and isinstance(inputs[0], Tensor):
            for value, other in zip(mine, flat(sample.reference_fn(ours, *inputs, **options)), strict=True):
                assert_close("reference", value.detach(), other.detach(), tolerance)
        for copied in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
            assert copied.training == training
            assert all(map(torch.equal, flat(copied(*inputs, **options)), mine))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("kind", "number"), [(GRU, 14), (GRUCell, 5)])
@pytest.mark.parametrize("whose", ["ours", "theirs"])
def test_module_errors_of_pytorch(
    module_infos: dict[str, Any], kind: type, number: int, dtype: torch.dtype, whose: str
) -> None:
    info = module_infos[kind.__name__]
    errors = info.module_error_inputs_func(info, device="cpu", dtype=dtype, requires_grad=False, training=True)
    assert len(errors) >= number
    for error in errors:
        positional = error.module_error_input.constructor_input.args
        named = error.module_error_input.constructor_input.kwargs
        build = functools.partial(kind if whose == "ours" else info.module_cls, *positional, **named)
        if error.error_on.name == "CONSTRUCTION_ERROR":
            with pytest.raises(error.error_type, match=error.error_regex):
                build()
            continue
        module = build()
        with pytest.raises(error.error_type, match=error.error_regex):
            module(*error.module_error_input.forward_input.args)


@pytest.mark.parametrize("kind", [GRU, GRUCell])
def test_device_and_dtype(kind: type) -> None:
    theirs = {GRU: nn.GRU, GRUCell: nn.GRUCell}[kind]
    for device, dtype in (("cpu", torch.float64), ("meta", torch.float16), ("cpu", None)):
        for (name, mine), other in zip(
            kind(I, H, device=device, dtype=dtype).named_parameters(),
            theirs(I, H, device=device, dtype=dtype).parameters(),
            strict=True,
        ):
            assert (mine.device, mine.dtype, mine.shape) == (other.device, other.dtype, other.shape), name


# PackedSequence


@pytest.mark.parametrize("hx", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize(
    ("lengths", "enforce_sorted"),
    [([5, 3, 2], True), ([4, 4, 4], True), ([5, 3, 2], False), ([2, 5, 1], False), ([4, 4, 4], False)],
)
@pytest.mark.parametrize(
    ("layers", "bidirectional", "batch_first"), [(1, False, False), (1, True, True), (2, True, False), (2, True, True)]
)
def test_packed(
    assert_close,
    layers: int,
    bidirectional: bool,
    batch_first: bool,
    lengths: list[int],
    enforce_sorted: bool,
    hx: bool,
) -> None:
    options = {"num_layers": layers, "bidirectional": bidirectional, "batch_first": batch_first}
    theirs, ours = nn.GRU(I, H, **options).double(), GRU(I, H, **options).double()
    ours.load_state_dict(theirs.state_dict())
    x = draw(B, T, I) if batch_first else draw(T, B, I)
    h0 = draw(layers * (1 + bidirectional), B, H) if hx else None
    packed = pack_padded_sequence(x, torch.tensor(lengths), batch_first, enforce_sorted)
    mine, other = ours(packed, h0), theirs(packed, h0)
    assert type(mine[0]) is PackedSequence
    assert torch.equal(mine[0].batch_sizes, other[0].batch_sizes)
    for name in ("sorted_indices", "unsorted_indices"):
        indices = getattr(mine[0], name), getattr(other[0], name)
        assert indices == (None, None) if enforce_sorted else torch.equal(*indices)
    results = [
        values_and_gradients((states.data, last), [x, *([h0] if hx else []), *module.parameters()])
        for (states, last), module in ((mine, ours), (other, theirs))
    ]
    for i, (value, expected) in enumerate(zip(*results, strict=True)):
        assert_close(f"{i}", value, expected, 1e-12)


def test_packed_by_hand(assert_close) -> None:
    """A PackedSequence made by hand, with batch sizes only, and gradients of the packed data."""
    theirs, ours = nn.GRU(I, H, L).double(), GRU(I, H, L).double()
    ours.load_state_dict(theirs.state_dict())
    packed = PackedSequence(draw(7, I), torch.tensor([3, 2, 1, 1]))
    (mine, last), (other, expected_last) = ours(packed), theirs(packed)
    actual = values_and_gradients((mine.data, last), [packed.data])
    for i, v in enumerate(values_and_gradients((other.data, expected_last), [packed.data])):
        assert_close(f"{i}", actual[i], v, 1e-12)


@pytest.mark.parametrize("enforce_sorted", [False, True])
def test_packed_ids(assert_close, enforce_sorted: bool) -> None:
    gru = GRU(I, H, L, bidirectional=True).double()
    ids, lengths = torch.randint(I, (T, B)), torch.tensor([5, 3, 2] if enforce_sorted else [3, 2, 5])
    results = []
    for x in (ids, nn.functional.one_hot(ids, I).double()):
        states, last = gru(pack_padded_sequence(x, lengths, enforce_sorted=enforce_sorted))
        results.append(values_and_gradients((states.data, last), gru.parameters()))
    for i, (value, expected) in enumerate(zip(*results, strict=True)):
        assert_close(f"{i}", value, expected, 1e-12)


def test_packed_with_gates() -> None:
    gru, x, lengths = GRU(I, H, L, batch_first=True), torch.randn(B, T, I), torch.tensor([3, 5, 1])
    *_, gates = gru(pack_padded_sequence(x, lengths, True, False), return_gates=True)
    for value, expected in zip(gates, gru(x, lengths=lengths, return_gates=True)[2], strict=True):
        assert torch.equal(value, expected)


def test_wrong_packed_sequences_raise_as_in_torch() -> None:
    packed = pack_padded_sequence(torch.zeros(T, B, I), [5, 4, 1])
    wide = pack_padded_sequence(torch.zeros(T, B, I + 1), [5, 4, 1])
    double = pack_padded_sequence(torch.zeros(T, B, I).double(), [5, 4, 1])
    for module in (GRU(I, H), nn.GRU(I, H)):
        with pytest.raises(RuntimeError, match=r"input.size\(-1\) must be equal to input_size. Expected 4, got 5"):
            module(wide)
        with pytest.raises(RuntimeError, match=r"Expected hidden size \(1, 3, 6\), got \[1, 2, 6\]"):
            module(packed, torch.zeros(1, 2, H))
        with pytest.raises(ValueError, match="does not match weight dtype"):
            module(double)
    for option in ({"lengths": [5, 4, 1]}, {"resets": torch.zeros(T, B, dtype=torch.bool)}):
        with pytest.raises(ValueError, match="a PackedSequence has lengths of its own and no resets"):
            GRU(I, H)(packed, **option)


# lengths


@pytest.mark.parametrize("reset", ["after", "before"])
@pytest.mark.parametrize("hx", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(("layers", "bidirectional"), [(1, False), (1, True), (2, False), (2, True)])
def test_lengths_equal_rows_run_alone(
    assert_close, layers: int, bidirectional: bool, batch_first: bool, hx: bool, reset: str
) -> None:
    """Each row equals a run of that row alone, cut at its length; gradients are the sums over these runs."""
    gru = GRU(I, H, layers, bidirectional=bidirectional, batch_first=batch_first, reset=reset).double()
    lengths = [3, 5, 0, 1]
    x, h0 = draw(T, 4, I), draw(layers * (1 + bidirectional), 4, H)
    rows = []
    for b, length in enumerate(lengths):
        row, start = x[:length, b], h0[:, b] if hx else None
        if length:
            states, last = gru(row, start)
        else:
            states, last = x.new_zeros(0, (1 + bidirectional) * H), x.new_zeros(len(h0), H) if start is None else start
        rows.append((nn.functional.pad(states, (0, 0, 0, T - length)), last))
    expected = [torch.stack(parts, 1) for parts in zip(*rows, strict=True)]
    leaves = [x, *([h0] if hx else []), *gru.parameters()]
    expected = values_and_gradients(expected, leaves)
    for form in (lengths, torch.tensor(lengths), torch.tensor(lengths, dtype=torch.int32)):
        states, last = gru(x.transpose(0, 1) if batch_first else x, h0 if hx else None, lengths=form)
        states = states.transpose(0, 1) if batch_first else states
        assert not states[3:, 0].any()
        assert not states[:, 2].any()
        for i, (value, other) in enumerate(zip(values_and_gradients((states, last), leaves), expected, strict=True)):
            assert_close(f"{i}", value, other, 1e-12)


@pytest.mark.parametrize("batch_first", [False, True])
def test_lengths_equal_a_packed_sequence_of_torch(assert_close, batch_first: bool) -> None:
    options = {"batch_first": batch_first, "bidirectional": True}
    theirs, ours = nn.GRU(I, H, L, **options).double(), GRU(I, H, L, **options).double()
    ours.load_state_dict(theirs.state_dict())
    x, h0, lengths = draw(B, T, I) if batch_first else draw(T, B, I), draw(2 * L, B, H), torch.tensor([2, 5, 4])
    packed, expected_last = theirs(pack_padded_sequence(x, lengths, batch_first, False), h0)
    padded, _ = pad_packed_sequence(packed, batch_first, total_length=T)
    expected = values_and_gradients((padded, expected_last), [x, h0, *theirs.parameters()])
    actual = values_and_gradients(ours(x, h0, lengths=lengths), [x, h0, *ours.parameters()])
    for i, (value, other) in enumerate(zip(actual, expected, strict=True)):
        assert_close(f"{i}", value, other, 1e-12)


@pytest.mark.parametrize("batch_first", [False, True])
def test_lengths_unbatched(assert_close, batch_first: bool) -> None:
    gru, x, h0 = GRU(I, H, L, bidirectional=True, batch_first=batch_first).double(), draw(T, I), draw(2 * L, H)
    states, last = gru(x[:3], h0)
    expected = nn.functional.pad(states, (0, 0, 0, T - 3)), last
    for form in ([3], 3, torch.tensor(3), torch.tensor([3])):
        for value, other in zip(gru(x, h0, lengths=form), expected, strict=True):
            assert_close("unbatched", value.detach(), other.detach(), 1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_values_beyond_a_length_have_no_effect(backend: str) -> None:
    """Values beyond a length do not affect the outputs and have a gradient of zero."""
    gru = GRU(I, H, L, bidirectional=True, backend=backend).double()
    lengths, beyond = torch.tensor([2, 0, 5]), torch.arange(T)[:, None] >= torch.tensor([2, 0, 5])
    x = draw(T, B, I)
    results = [
        values_and_gradients(gru(x.masked_fill(beyond[..., None], filling), lengths=lengths), [x, *gru.parameters()])
        for filling in (0.0, 1e6)
    ]
    assert all(map(torch.equal, *results))
    y = x.detach().masked_fill(beyond[..., None], 7.0).requires_grad_()
    dy = values_and_gradients(gru(y, lengths=lengths), [y])[2]
    assert not dy[beyond].any()
    assert dy[~beyond].all()


@pytest.mark.parametrize("reset", ["after", "before"])
@pytest.mark.parametrize("filling", [torch.nan, torch.inf])
@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_beyond_a_length_has_no_effect(backend: str, filling: float, reset: str) -> None:
    gru = GRU(I, H, L, bidirectional=True, reset=reset, backend=backend).double()
    lengths = torch.tensor([2, 0, 5])
    beyond = torch.arange(T)[:, None] >= lengths
    x, h0, results = draw(T, B, I).detach(), draw(2 * L, B, H), []
    for value in (0.0, filling):
        y = x.masked_fill(beyond[..., None], value).requires_grad_()
        results.append(values_and_gradients(gru(y, h0, lengths=lengths), [y, h0, *gru.parameters()]))
    assert all(v.isfinite().all() for v in results[1])
    assert all(map(torch.equal, *results))


def test_ids_with_lengths(assert_close) -> None:
    gru, ids = GRU(I, H, L, bidirectional=True).double(), torch.randint(I, (T, B))
    results = [
        values_and_gradients(gru(x, lengths=[4, 0, 5]), gru.parameters())
        for x in (ids, nn.functional.one_hot(ids, I).double())
    ]
    for i, (value, other) in enumerate(zip(*results, strict=True)):
        assert_close(f"{i}", value, other, 1e-12)


# resets and learned states


def reset_rows(T: int) -> Tensor:
    """Return resets (T, 3): at the first step and in the middle; two in a row and the last step; none."""
    resets = torch.zeros(T, 3, dtype=torch.bool)
    resets[0, 0] = resets[3, 0] = resets[2, 1] = resets[3, 1] = resets[T - 1, 1] = True
    return resets


@pytest.mark.parametrize("reset", ["after", "before"])
@pytest.mark.parametrize("learned", [False, True], ids=["zeros", "learned"])
@pytest.mark.parametrize("hx", [False, True], ids=["none", "hx"])
@pytest.mark.parametrize(("layers", "bidirectional"), [(1, False), (1, True), (2, True)])
def test_resets_equal_separate_pieces(
    assert_close, layers: int, bidirectional: bool, hx: bool, learned: bool, reset: str
) -> None:
    """Each row equals its pieces run one by one, of which only the first starts from hx."""
    T, D = 7, 1 + bidirectional
    gru = GRU(I, H, layers, bidirectional=bidirectional, learned_state=learned, reset=reset).double()
    for name, parameter in gru.named_parameters():
        if name.startswith("state"):
            nn.init.normal_(parameter)
    x, h0, resets = draw(T, B, I), draw(layers * D, B, H), reset_rows(T)
    fresh = torch.zeros(layers * D, H, dtype=torch.float64)
    if learned:
        fresh = torch.stack([p for n, p in gru.named_parameters() if n.startswith("state")])
    rows = []
    for b in range(B):
        cuts = [0, *(t for t in range(1, T) if resets[t, b]), T]
        states, ends = [], []
        for begin, end in itertools.pairwise(cuts):
            first, final = begin == 0 and not resets[0, b], end == T
            initial = h0[:, b] if hx else fresh
            start = [initial[k] if (final if k % D else first) else fresh[k] for k in range(layers * D)]
            piece, last = gru(x[begin:end, b], torch.stack(start))
            states.append(piece)
            ends.append(last)
        rows.append((torch.cat(states), torch.stack([ends[0 if k % D else -1][k] for k in range(layers * D)])))
    leaves = [x, *([h0] if hx else []), *gru.parameters()]
    expected = values_and_gradients([torch.stack(parts, 1) for parts in zip(*rows, strict=True)], leaves)
    actual = values_and_gradients(gru(x, h0 if hx else None, resets=resets), leaves)
    for i, (value, other) in enumerate(zip(actual, expected, strict=True)):
        assert_close(f"{i}", value, other, 1e-12)


@pytest.mark.parametrize("learned", [False, True], ids=["zeros", "learned"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_resets_with_lengths_follow_the_definition(assert_close, batch_first: bool, learned: bool) -> None:
    T = 7
    gru = GRU(I, H, L, bidirectional=True, batch_first=batch_first, learned_state=learned).double()
    x, h0, options = draw(T, B, I), draw(2 * L, B, H), {"resets": reset_rows(T), "lengths": torch.tensor([2, 5, 7])}
    leaves = [x, h0, *gru.parameters()]
    expected = values_and_gradients(definition(gru, x, h0, **options)[:2], leaves)
    if batch_first:
        options["resets"] = options["resets"].t()
    states, last = gru(x.transpose(0, 1) if batch_first else x, h0, **options)
    actual = values_and_gradients((states.transpose(0, 1) if batch_first else states, last), leaves)
    for i, (value, other) in enumerate(zip(actual, expected, strict=True)):
        assert_close(f"{i}", value, other, 1e-12)


@pytest.mark.parametrize("batch_first", [False, True])
def test_resets_unbatched(batch_first: bool) -> None:
    gru, x, resets = GRU(I, H, L, bidirectional=True, batch_first=batch_first), torch.randn(7, I), reset_rows(7)[:, 1]
    axis = 0 if batch_first else 1
    states, last = gru(x.unsqueeze(axis), resets=resets.unsqueeze(axis))
    result = gru(x, resets=resets)
    assert torch.equal(result[0], states.squeeze(axis))
    assert torch.equal(result[1], last.squeeze(1))
    assert not torch.equal(result[0], gru(x)[0])


@pytest.mark.parametrize("batch_first", [False, True])
def test_wrong_lengths_and_resets_are_refused(batch_first: bool) -> None:
    gru = GRU(I, H, batch_first=batch_first)
    x, axes = torch.zeros((B, T, I) if batch_first else (T, B, I)), r"\(3, 5\)" if batch_first else r"\(5, 3\)"
    for lengths, message in (
        ([5, 1], r"lengths must be \(3,\) .* got \(2,\)"),
        ([5, 6, 1], "lengths must be from 0 to 5, got 1 to 6"),
        ([5, -1, 1], "lengths must be from 0 to 5, got -1 to 5"),
        ([5.0, 2.0, 1.0], "lengths must be .* torch.int32 or torch.int64, got .* torch.float32"),
    ):
        with pytest.raises(RuntimeError, match=message):
            gru(x, lengths=lengths)
    for shape in ((5,), (3,), (5, 3, 1), (3, 5) if not batch_first else (5, 3)):
        with pytest.raises(RuntimeError, match=f"resets must be {axes}.*got {re.escape(str(shape))}"):
            gru(x, resets=torch.zeros(shape, dtype=torch.bool))
    with pytest.raises(RuntimeError, match=f"resets must be {axes} .*bool.*torch.float32"):
        gru(x, resets=torch.zeros(x.shape[:2]))


def test_learned_state_is_a_parameter() -> None:
    torch.manual_seed(7)
    gru = GRU(I, H, L, bidirectional=True, learned_state=True)
    torch.manual_seed(7)
    theirs = nn.GRU(I, H, L, bidirectional=True)
    names = ["state_l0", "state_l0_reverse", "state_l1", "state_l1_reverse"]
    assert [n for n in gru.state_dict() if n.startswith("state")] == names
    for name in names:
        assert torch.equal(gru.get_parameter(name), torch.zeros(H))
        nn.init.normal_(gru.get_parameter(name))
    assert [n for n in gru.state_dict() if n not in names] == list(theirs.state_dict())
    assert all(
        torch.equal(gru.state_dict()[n], v) for n, v in theirs.state_dict().items()
    )  # drawn in the order of torch
    with pytest.raises(RuntimeError, match=r'Missing key.*"state_l0", "state_l0_reverse", "state_l1", "state_l1_rev'):
        gru.load_state_dict(theirs.state_dict())
    for other in (theirs, GRU(I, H, L, bidirectional=True)):
        with pytest.raises(
            RuntimeError, match=r'Unexpected key.*"state_l0", "state_l0_reverse", "state_l1", "state_l1'
        ):
            other.load_state_dict(gru.state_dict())
    x = torch.randn(T, B, I)
    for other in (copy.deepcopy(gru), pickle.loads(pickle.dumps(gru))):
        assert torch.equal(other(x)[0], gru(x)[0])
    gru.reset_parameters()
    assert not any(gru.get_parameter(name).any() for name in names)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_sequence_starts_from_the_learned_state(assert_close, bidirectional: bool) -> None:
    D = 1 + bidirectional
    gru = GRU(I, H, L, bidirectional=bidirectional, learned_state=True).double()
    plain = GRU(I, H, L, bidirectional=bidirectional).double()
    plain.load_state_dict({n: v for n, v in gru.state_dict().items() if not n.startswith("state")})
    states = [p for n, p in gru.named_parameters() if n.startswith("state")]
    for state in states:
        nn.init.normal_(state)
    x, h0 = draw(T, B, I), draw(L * D, B, H)
    hx = torch.stack([state.detach() for state in states])[:, None].repeat(1, B, 1).requires_grad_()
    actual = values_and_gradients(gru(x), [x, *states])
    expected = values_and_gradients(plain(x, hx), [x, hx])
    expected[3:] = expected[3].sum(1)
    for i, (value, other) in enumerate(zip(actual, expected, strict=True)):
        assert_close(f"{i}", value, other, 1e-12)
    assert_close("unbatched", gru(x[:, 1])[0].detach(), plain(x[:, 1], hx[:, 1])[0].detach(), 1e-12)
    for value, other in zip(gru(x, h0), plain(x, h0), strict=True):
        assert torch.equal(value, other)  # hx takes precedence
    gradients = torch.autograd.grad(gru(x, h0)[0].sum(), states, allow_unused=True)
    assert all(g is None or not g.any() for g in gradients)
    resets = torch.zeros(T, B, dtype=torch.bool)
    resets[2] = True
    gradients = torch.autograd.grad(gru(x, h0, resets=resets)[0].sum(), states)
    assert all(g.all() for g in gradients)


# gates


@pytest.mark.parametrize("reset", ["after", "before"])
@pytest.mark.parametrize("bias", [True, "single", False])
@pytest.mark.parametrize(("layers", "bidirectional"), [(1, False), (2, True), (3, False)])
def test_gates_follow_the_equations(
    assert_close, layers: int, bidirectional: bool, bias: bool | str, reset: str
) -> None:
    """The states follow from z and n, and r, z and n follow from the states by the equations of a step."""
    D = 1 + bidirectional
    gru = GRU(I, H, layers, bias, bidirectional=bidirectional, reset=reset).double()
    x, h0 = draw(T, B, I).detach(), draw(layers * D, B, H).detach()
    with torch.no_grad():
        states, last, (r, z, n) = gru(x, h0, return_gates=True)
        assert r.shape == z.shape == n.shape == (layers * D, T, B, H)
        for layer in range(layers):
            both = []
            for k, suffix in enumerate([f"_l{layer}", f"_l{layer}_reverse"][:D], layer * D):
                weights = [getattr(gru, f"{m}{suffix}", None) for m in ("weight_ih", "bias_ih", "weight_hh", "bias_hh")]
                a, h, actual = equations.project(x, *weights[:2]), h0[k], {}
                for t in reversed(range(T)) if k % D else range(T):
                    expected = equations.gates(a[t], h, *weights[2:], reset=reset)
                    for name, value, other in zip("rzn", (r, z, n), expected, strict=True):
                        assert_close(f"{name}{suffix}", value[k, t], other, 1e-12)
                    actual[t] = h = (1 - z[k, t]) * n[k, t] + z[k, t] * h
                assert_close("last", last[k], h, 1e-12)
                both.append(torch.stack([actual[t] for t in range(T)]))
            x = torch.cat(both, -1)
        assert_close("states", states, x, 1e-12)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("reset", ["after", "before"])
def test_gradients_through_gates(assert_close, reset: str, batch_first: bool) -> None:
    gru = GRU(I, H, L, bidirectional=True, batch_first=batch_first, reset=reset, learned_state=True).double()
    x, options = draw(T, B, I), {"lengths": torch.tensor([2, 0, 5]), "resets": reset_rows(T)}
    leaves = [x, *gru.parameters()]
    expected = definition(gru, x, **options)
    if batch_first:
        options["resets"] = options["resets"].t()
    states, last, gates = gru(x.transpose(0, 1) if batch_first else x, **options, return_gates=True)
    assert gates.r is gates[0]
    assert gates.n is gates[2]
    if batch_first:
        assert gates.z.shape == (2 * L, B, T, H)
        states, gates = states.transpose(0, 1), [v.transpose(1, 2) for v in gates]
    for value, other in zip((states, last, *gates), expected, strict=True):
        assert_close("values", value.detach(), other.detach(), 1e-12)
    for chosen in (slice(5), slice(2, 3), slice(3, 4), slice(4, 5)):  # all outputs; r, z, n alone
        results = [
            torch.autograd.grad(
                sum((v * v.detach().cos()).sum() for v in outputs[chosen]), leaves, retain_graph=True,
                materialize_grads=True,
            )
            for outputs in ((states, last, *gates), expected)
        ]  # fmt: skip
        for i, (value, other) in enumerate(zip(*results, strict=True)):
            assert_close(f"{chosen} {i}", value, other, 1e-12)


@pytest.mark.parametrize("batch_first", [False, True])
def test_gates_unbatched(batch_first: bool) -> None:
    gru, x = GRU(I, H, L, bidirectional=True, batch_first=batch_first), torch.randn(T, I)
    *_, gates = gru(x, return_gates=True)
    *_, batched = gru(x[None] if batch_first else x[:, None], return_gates=True)
    for value, other in zip(gates, batched, strict=True):
        assert value.shape == (2 * L, T, H)
        assert torch.equal(value, other.squeeze(1 if batch_first else 2))


# half precision


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
def test_half_input_of_a_float32_module(half: torch.dtype) -> None:
    gru = GRU(I, H, L, bidirectional=True)
    x, h0 = torch.randn(T, B, I).to(half), torch.randn(2 * L, B, H).to(half)
    for hx in (None, h0):
        results = [gru(x, hx), gru(x.float(), None if hx is None else hx.float())]
        for value, expected in zip(*results, strict=True):
            assert value.dtype == torch.float32
            assert torch.equal(value, expected)
    with pytest.raises(ValueError, match=r"RNN input dtype .* does not match weight dtype \(torch.float64\)"):
        GRU(I, H).double()(x)
    with pytest.raises(ValueError, match=r"RNN input dtype \(torch.float32\) does not match weight dtype"):
        GRU(I, H).to(half)(x.float())


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
def test_half_module_computes_in_float32(assert_close, half: torch.dtype) -> None:
    """Outputs are rounded once per layer."""
    gru = GRU(I, H, bidirectional=True).to(half)
    x, h0 = torch.randn(T, B, I).to(half).requires_grad_(), torch.randn(2, B, H).to(half).requires_grad_()
    wide = copy.deepcopy(gru).float()
    outputs = gru(x, h0, return_gates=True)
    expected = wide(x.float(), h0.float(), return_gates=True)
    for value, other in zip((*outputs[:2], *outputs[2]), (*expected[:2], *expected[2]), strict=True):
        assert value.dtype == half
        assert torch.equal(value, other.to(half))
    gradients = torch.autograd.grad(outputs[0].float().square().sum(), [x, h0, *gru.parameters()])
    others = torch.autograd.grad(expected[0].square().sum(), [x, h0, *wide.parameters()])
    for gradient, other in zip(gradients, others, strict=True):
        assert gradient.dtype == half
        scale = float(other.abs().max())
        assert_close("gradient", gradient, other, 0.02 * scale)
        assert scale > 0.1


def test_half_module_equals_torch(assert_close) -> None:
    theirs, ours = nn.GRU(I, H, L).bfloat16(), GRU(I, H, L).bfloat16()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(T, B, I).bfloat16()
    for value, other in zip(ours(x), theirs(x), strict=True):
        assert value.dtype == other.dtype
        assert_close("half", value.detach(), other.detach(), 0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast(dtype: torch.dtype) -> None:
    """The computation stays in float32, and bfloat16 outputs of other layers are accepted."""
    gru, head = GRU(I, H, L, bidirectional=True), nn.Linear(2 * H, I)
    x, h0 = torch.randn(T, B, I).to(dtype), torch.randn(2 * L, B, H).to(dtype)
    expected = gru(x.float(), h0.float())
    with torch.autocast("cpu", torch.bfloat16):
        states, last = gru(x, h0)
        assert torch.equal(states, expected[0])
        assert torch.equal(last, expected[1])
        again, _ = gru(head(states))
    again.sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in gru.parameters())


# other features of torch.nn.GRU


@pytest.mark.parametrize("bias", [True, False])
def test_all_weights_equals_that_of_torch(bias: bool) -> None:
    theirs, ours = nn.GRU(I, H, L, bias, bidirectional=True), GRU(I, H, L, bias, bidirectional=True)
    ours.load_state_dict(theirs.state_dict())
    assert len(ours.all_weights) == len(theirs.all_weights) == 2 * L
    for mine, other in zip(ours.all_weights, theirs.all_weights, strict=True):
        assert len(mine) == len(other)
        assert all(map(torch.equal, mine, other))
        assert all(any(w is p for p in ours.parameters()) for w in mine)
    assert ours.flatten_parameters() is None


def test_gradients_in_eval_mode(assert_close) -> None:
    theirs, ours = nn.GRU(I, H, L, dropout=0.5).double().eval(), GRU(I, H, L, dropout=0.5).double().eval()
    ours.load_state_dict(theirs.state_dict())
    x = draw(T, B, I)
    results = [values_and_gradients(m(x), [x, *m.parameters()]) for m in (ours, theirs)]
    for i, (value, other) in enumerate(zip(*results, strict=True)):
        assert_close(f"{i}", value, other, 1e-12)


@pytest.mark.parametrize("dropout", [0.3, 1.0])
def test_dropout_gradients_equal_those_of_torch(assert_close, dropout: float) -> None:
    """Dropout masks are drawn layer by layer for both directions together, as in torch."""
    theirs = nn.GRU(I, H, 3, dropout=dropout, bidirectional=True).double()
    ours = GRU(I, H, 3, dropout=dropout, bidirectional=True).double()
    ours.load_state_dict(theirs.state_dict())
    x, results = draw(T, B, I), []
    for module in (ours, theirs):
        torch.manual_seed(3)
        results.append(values_and_gradients(module(x), [x, *module.parameters()]))
    for i, (value, other) in enumerate(zip(*results, strict=True)):
        assert_close(f"{i}", value, other, 1e-12)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(TypeError, match="input must be a tensor or a PackedSequence, got list"):
        GRU(I, H)([1, 2])
    with pytest.raises(RuntimeError, match=r"weight_ih is torch.float32 on cpu, h0 is torch.float64 on cpu"):
        GRU(I, H)(torch.zeros(T, B, I), torch.zeros(1, B, H).double())
    with pytest.raises(RuntimeError, match=r"ids must be int32 or int64, got torch.bool"):
        GRU(I, H)(torch.zeros(T, B, dtype=torch.bool))
    with pytest.raises(ValueError, match='reset must be "after" or "before", got \'middle\''):
        GRU(I, H, reset="middle")
    with pytest.raises(TypeError, match="bias should be of type bool, got: str 'double'"):
        GRU(I, H, bias="double")


# an nn.RNNBase


KINDS = [
    {},
    {"num_layers": 2, "bidirectional": True},
    {"bias": False, "num_layers": 2},
]


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_lists_of_weights_equal_those_of_torch(options: dict) -> None:
    theirs, ours = nn.GRU(I, H, **options), GRU(I, H, **options)
    ours.load_state_dict(theirs.state_dict())
    assert isinstance(ours, nn.RNNBase)
    assert (ours.mode, ours.proj_size) == (theirs.mode, theirs.proj_size) == ("GRU", 0)
    assert ours._flat_weights_names == theirs._flat_weights_names
    assert ours._all_weights == theirs._all_weights
    assert type(ours._flat_weights_names) is list
    assert isinstance(ours._flat_weights, list)
    assert all(w is getattr(ours, n) for w, n in zip(ours._flat_weights, ours._flat_weights_names, strict=True))
    assert [n for n in vars(ours) if n not in vars(theirs)] == ["reset", "learned_state", "batch_invariant", "backend"]


def test_lists_of_weights_contain_the_existing_weights() -> None:
    """There is one bias per gate, and a learned state is not a weight."""
    gru = GRU(I, H, L, bias="single", learned_state=True)
    assert gru._all_weights == [[f"{n}_l{k}" for n in ("weight_ih", "weight_hh", "bias_ih")] for k in range(L)]
    assert [tuple(w.shape) for w in gru._flat_weights] == [
        (3 * H, I),
        (3 * H, H),
        (3 * H,),
        (3 * H, H),
        (3 * H, H),
        (3 * H,),
    ]
    assert [len(weights) for weights in gru.all_weights] == [3, 3]


def test_initialization_of_the_textbook() -> None:
    """The initialization of the textbook's sequence-to-sequence model works."""

    def init_seq2seq(module: nn.Module) -> None:
        if type(module) is nn.Linear:
            nn.init.xavier_uniform_(module.weight)
        if type(module) is GRU:
            for param in module._flat_weights_names:
                if "weight" in param:
                    nn.init.xavier_uniform_(module._parameters[param])

    model = nn.Sequential(nn.Linear(3, I), GRU(I, H, L))
    before = [w.detach().clone() for w in model[1]._flat_weights]
    model.apply(init_seq2seq)
    for name, weight, old in zip(model[1]._flat_weights_names, model[1]._flat_weights, before, strict=True):
        assert torch.equal(weight, old) == ("bias" in name)


def test_the_lists_stay_correct_when_weights_are_replaced(assert_close) -> None:
    x = torch.randn(T, B, I, dtype=torch.float64)

    def check(gru: GRU) -> None:
        assert all(w is getattr(gru, n) for w, n in zip(gru._flat_weights, gru._flat_weights_names, strict=True))
        weights = [[getattr(gru, n).detach() for n in names] for names in gru._all_weights]
        expected = x
        for each in weights:
            expected, _ = unbundled(equations.sequence)(expected, torch.zeros(B, H, dtype=x.dtype), *each)
        assert_close("states", gru(x)[0].detach(), expected, 1e-12)

    gru = GRU(I, H, L)
    gru.double()
    check(gru)
    gru.load_state_dict({n: torch.randn_like(v) for n, v in gru.state_dict().items()}, assign=True)
    check(gru)
    gru.weight_hh_l0 = nn.Parameter(torch.randn_like(gru.weight_hh_l0))
    check(gru)
    torch.utils.swap_tensors(gru.bias_ih_l0, nn.Parameter(torch.randn_like(gru.bias_ih_l0)))
    check(gru)
    check(copy.deepcopy(gru))
    raw = gru.weight_hh_l1.detach()
    del gru.weight_hh_l1  # as weight drop does
    gru.weight_hh_l1 = nn.functional.dropout(raw, 0.5)
    check(gru)
    torch.nn.utils.parametrize.register_parametrization(gru, "weight_ih_l0", Doubled())
    with torch.nn.utils.parametrize.cached():
        check(gru)


class Doubled(nn.Module):
    """A parametrization that doubles a weight."""

    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def test_assigned_lists(assert_close) -> None:
    """As in torch.nn.GRU, assigned parameters become the module's, and other tensors are used in the computation."""
    theirs, ours = nn.GRU(I, H).double(), GRU(I, H).double()
    ours.load_state_dict(theirs.state_dict())
    x, results = draw(T, B, I), []
    for module in (theirs, ours):
        module._flat_weights = [1.5 * w for w in module._flat_weights]
        results.append(values_and_gradients(module(x), [x, *module.parameters()]))
    for name, value, expected in zip(
        ("states", "last", "dx", *theirs._flat_weights_names), *results[::-1], strict=True
    ):
        assert_close(name, value, expected, 1e-12)
    assert all(isinstance(p, nn.Parameter) for p in ours.parameters())
    for module in (theirs, ours):
        module._apply(lambda v: v)
        results.append(values_and_gradients(module(x), [x]))
    for value, expected in zip(*results[2:], strict=True):
        assert_close("after _apply", value, expected, 1e-12)
    for module in (theirs, ours):
        module._flat_weights[1] = torch.zeros(3 * H, H, dtype=x.dtype)
        results.append(values_and_gradients(module(x), [x]))
    for value, expected in zip(*results[4:], strict=True):
        assert_close("after an item", value, expected, 1e-12)
    ours.weight_hh_l0 = nn.Parameter(torch.ones(3 * H, H, dtype=x.dtype))  # a later assignment wins
    assert ours._flat_weights[1] is ours.weight_hh_l0
    ours._flat_weights = [nn.Parameter(w.detach()) for w in ours._flat_weights]
    assert all(w is p for w, p in zip(ours._flat_weights, ours.parameters(), strict=True))
    ours._flat_weights_names = list(theirs._flat_weights_names)
    ours._all_weights = list(theirs._all_weights)
    for name, value in (("_flat_weights_names", ["weight_ih_l0"]), ("_all_weights", [["weight_ih_l0"]])):
        with pytest.raises(ValueError, match=f"{name} follows from the arguments of GRU"):
            setattr(ours, name, value)
    with pytest.raises(ValueError, match=r"_flat_weights must be 4 tensors \(weight_ih_l0, .*\), got 1"):
        ours._flat_weights = [ours.weight_ih_l0]


def test_a_subclass_that_adapts_its_weights(assert_close) -> None:
    class Adapted(GRU):
        def forward(self, *arguments: Any, **options: Any) -> Any:
            self._flat_weights = [getattr(self, n) + (0.5 if "weight" in n else 0) for n in self._flat_weights_names]
            return super().forward(*arguments, **options)

    gru, x = Adapted(I, H, L).double(), draw(T, B, I)
    plain = GRU(I, H, L).double()
    plain.load_state_dict({n: v + (0.5 if "weight" in n else 0) for n, v in gru.state_dict().items()})
    results = [values_and_gradients(m(x), [x, *m.parameters()]) for m in (gru, plain)]
    for value, expected in zip(*results, strict=True):
        assert_close("adapted", value, expected, 1e-12)


def test_projections_are_refused_as_in_torch() -> None:
    for kind in (GRU, nn.GRU):
        with pytest.raises(ValueError, match="proj_size argument is only supported for LSTM, not RNN or GRU"):
            kind(I, H, proj_size=3)


@pytest.mark.parametrize("batch_first", [False, True])
def test_checks_of_rnnbase(batch_first: bool) -> None:
    """The checks that subclasses of torch.nn.GRU call."""
    packed = pack_padded_sequence(torch.zeros(T, B, I), [5, 4, 1])
    x, wrong = torch.zeros((B, T, I) if batch_first else (T, B, I)), torch.zeros(T, B, I + 1)
    for kind in (nn.GRU, GRU):
        gru = kind(I, H, L, batch_first=batch_first)
        assert gru.get_expected_hidden_size(x, None) == (L, B, H)
        assert gru.get_expected_hidden_size(packed.data, packed.batch_sizes) == (L, B, H)
        gru.check_input(packed.data, packed.batch_sizes)
        gru.check_forward_args(x, torch.zeros(L, B, H), None)
        with pytest.raises(RuntimeError, match=r"Expected hidden size \(2, 3, 6\), got \[2, 5, 6\]"):
            gru.check_forward_args(x, torch.zeros(L, T, H), None)
        with pytest.raises(RuntimeError, match=r"input.size\(-1\) must be equal to input_size. Expected 4, got 5"):
            gru.check_input(wrong, None)
        with pytest.raises(RuntimeError, match="input must have 3 dimensions, got 2"):
            gru.check_input(x[0], None)
        with pytest.raises(ValueError, match="does not match weight dtype"):
            gru.check_input(x.double(), None)
        hx = torch.arange(L * B * H).view(L, B, H)
        assert torch.equal(gru.permute_hidden(hx, torch.tensor([2, 0, 1])), hx[:, [2, 0, 1]])
        assert gru.permute_hidden(hx, None) is hx
    ids = torch.zeros(B, T, dtype=torch.int64)
    gru.check_input(ids, None)
    assert gru.get_expected_hidden_size(ids if batch_first else ids.t(), None) == (L, B, H)
    with pytest.raises(RuntimeError, match="input must have 2 dimensions, got 1"):
        gru.check_input(ids[0], None)


def test_saved_as_a_whole() -> None:
    gru, x, file = GRU(I, H, L, bias="single", learned_state=True, reset="before"), torch.randn(T, B, I), io.BytesIO()
    torch.save(gru, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert torch.equal(again(x)[0], gru(x)[0])
    assert vars(again).keys() == vars(gru).keys()
    assert list(again.state_dict()) == list(gru.state_dict())


def test_weights_can_be_loaded_into_a_meta_module() -> None:
    with torch.device("meta"):
        gru = GRU(I, H, L)
    other = GRU(I, H, L)
    gru.load_state_dict(other.state_dict(), assign=True)
    x = torch.randn(T, B, I)
    assert torch.equal(gru(x)[0], other(x)[0])
    with torch.device("meta"):
        empty = GRU(I, H, L)
    empty.to_empty(device="cpu").load_state_dict(other.state_dict())
    assert torch.equal(empty(x)[0], other(x)[0])


# Code written for torch.nn.GRU


@pytest.mark.parametrize("enforce_sorted", [False, True])
def test_packed_dropout_draws_the_masks_of_torch(enforce_sorted: bool) -> None:
    options = {"num_layers": 3, "dropout": 0.4, "bidirectional": True}
    theirs, ours = nn.GRU(I, H, **options).double(), GRU(I, H, **options).double()
    ours.load_state_dict(theirs.state_dict())
    lengths = [5, 3, 3] if enforce_sorted else [3, 5, 3]
    packed = pack_padded_sequence(draw(T, B, I), lengths, enforce_sorted=enforce_sorted)
    results = []
    for module in (theirs, ours):
        torch.manual_seed(7)
        states, last = module(packed)
        results.append((states.data, last))
    for expected, value in zip(*results, strict=True):
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        lambda states, last: nn.functional.relu(states, inplace=True),
        lambda states, last: nn.functional.dropout(states, 0.0, inplace=True),
        lambda states, last: states[-1].zero_(),
        lambda states, last: (last.mul_(0.5), states.mul_(2)),
    ],
    ids=["relu", "dropout", "slice", "both"],
)
def test_outputs_may_be_changed_in_place(change: Callable[[Tensor, Tensor], object], batch_first: bool) -> None:
    theirs, ours = nn.GRU(I, H, batch_first=batch_first).double(), GRU(I, H, batch_first=batch_first).double()
    ours.load_state_dict(theirs.state_dict())
    x, results = draw(T, B, I), []
    for module in (theirs, ours):
        states, last = module(x)
        change(states, last)
        results.append([states, last, *values_and_gradients((states, last), [x, *module.parameters()])])
    for expected, value in zip(*results, strict=True):
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)


def test_sizes_may_be_numpy_numbers() -> None:
    gru = GRU(np.int64(I), np.int32(H), np.uint8(L), dropout=np.float32(0.25))
    assert [type(v) for v in (gru.input_size, gru.hidden_size, gru.num_layers, gru.dropout)] == [int, int, int, float]
    assert repr(gru) == repr(GRU(I, H, L, dropout=0.25))


def test_a_subclass_sees_a_packed_sequence_once() -> None:
    class Doubled(GRU):
        calls = 0

        def forward(self, input: Any, hx: Any = None) -> Any:
            self.calls += 1
            return super().forward(input, hx)

    module = Doubled(I, H)
    module(pack_padded_sequence(torch.randn(T, B, I), [5, 4, 1]))
    assert module.calls == 1
