"""Whatever is passed to the bindings gives correct numbers or an exception, and never touches invalid memory.

``make sanitize`` runs this file with the address sanitizer.
"""

import copy
import re
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from headgate import InputError, LanguageModel, Runtime, equations, gru, native
from headgate.kernels import cross_entropy, native_gru
from headgate.models.language_model import numpy_weights
from headgate.runtime import runtime as runtime_module
from headgate.runtime.native_model import NativeModel
from headgate.runtime.sampling import Sampling
from headgate.settings.run import ModelSettings
from headgate.text.characters import CharacterTokenizer
from headgate.text.tokenizer import DocumentTokenizer
from tests.helpers.definition import unbundled

L, T, B, H = 2, 5, 3, 9
TOKENIZER = CharacterTokenizer.from_text("The gate was never wrong.\n")
V = TOKENIZER.vocabulary_size
WITHOUT = SimpleNamespace(load=lambda: None, PRECISIONS=native.PRECISIONS, MISSING=native.MISSING)  # no native library
REFUSED = (ValueError, TypeError, IndexError, RuntimeError)  # exceptions allowed for a wrong argument
Array = np.ndarray[Any, Any]


def weights_of(settings: ModelSettings, size: int = V) -> dict[str, Array]:
    torch.manual_seed(3)
    result = numpy_weights(LanguageModel(settings, size))
    return {name: 3 * value for name, value in result.items()}  # far from uniform, so that mistakes show


def build(engine: str, monkeypatch: pytest.MonkeyPatch, tokenizer: Any = TOKENIZER, embedding: int = 4) -> Runtime:
    if engine == "numpy":
        monkeypatch.setattr(runtime_module, "native", WITHOUT)
    settings = ModelSettings(hidden_size=H, num_layers=L, embedding=embedding, dropout=0.0)
    return Runtime(weights_of(settings, tokenizer.vocabulary_size), settings, tokenizer, threads=1)


@pytest.fixture(params=["native", "numpy"])
def runtime(request, monkeypatch) -> Runtime:
    """With and without the native library."""
    return build(request.param, monkeypatch)


def drawn(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32) / 2


def misaligned(array: Array) -> Array:
    raw = np.empty(array.nbytes + 1, np.uint8)
    result = raw[1:].view(array.dtype).reshape(array.shape)
    result[...] = array
    assert not result.flags.aligned or array.itemsize == 1 or not array.size
    return result


def read_only(array: Array) -> Array:
    result = array.copy()
    result.flags.writeable = False
    return result


def strided(array: Array) -> Array:
    result = np.full((*array.shape[:-1], 2 * array.shape[-1]), 77, array.dtype)[..., ::2]
    result[...] = array
    return result


LAYOUTS: dict[str, Callable[[Array], Any]] = {  # functions that keep the numbers
    "Fortran": np.asfortranarray,
    "strided": strided,
    "backwards": lambda v: v[::-1].copy()[::-1],
    "read-only": read_only,
    "misaligned": misaligned,
    "byte order": lambda v: v.astype(v.dtype.newbyteorder()),
    "subclass": lambda v: np.ma.MaskedArray(v),
    "list": lambda v: v.tolist(),
}
DTYPES = {
    str(dtype): dtype
    for dtype in map(np.dtype, ("f2", "f4", "f8", "g", "c8", "i1", "i4", "i8", "u1", "u8", "?", "O", "U3", "M8[s]"))
}
SHAPES: dict[str, Callable[[Array], Any]] = {  # functions that change the numbers
    "None": lambda v: None,
    "scalar": lambda v: v.dtype.type(0),
    "text": lambda v: "abc",
    "empty": lambda v: v[:0],
    "flat": lambda v: v.ravel(),
    "first": lambda v: v[0] if v.ndim else v,
    "one more axis": lambda v: v[None],
    "trailing axis": lambda v: v[..., None],
    "swapped": lambda v: np.ascontiguousarray(v.T),
    "longer": lambda v: np.concatenate([v, v]),
    "wider": lambda v: np.concatenate([v, v], -1),
    "shorter": lambda v: v[:-1],
    "narrower": lambda v: np.ascontiguousarray(v[..., :-1]),
    "one": lambda v: v[:1],
    "broadcast": lambda v: np.broadcast_to(v[:1], v.shape),
    "huge": lambda v: np.broadcast_to(v.ravel()[:1], (2**40, *v.shape[1:])),
    "huge and empty": lambda v: np.empty((2**40, 0), v.dtype),
}


def spoilt(array: Array) -> Iterator[tuple[str, Any]]:
    """Yield the array in every unusual layout, dtype and shape."""
    for name, change in (LAYOUTS | SHAPES).items():
        yield name, change(array)
    for name, dtype in DTYPES.items():
        if dtype != array.dtype:
            yield name, array.astype(dtype)


# --- the runtime ------------------------------------------------------------------------------------------------------


def test_step_refuses_a_text_and_names_read(runtime: Runtime) -> None:
    """Each id beyond the number of sequences would be read and written past the end of the state."""
    _, state = runtime.read("The ga")
    before = state.copy()
    for n in (2, 20, 200):
        text = ("te was never wrong. " * 10)[:n]
        with pytest.raises(
            InputError,
            match=rf"step reads one id for each sequence, got {n} ids and a state of 1 sequence: "
            r"for the characters of one text call read\(text, state\)",
        ):
            runtime.step(runtime.tokenizer.encode(text), state)
    assert np.array_equal(state, before)
    logits, after = runtime.read("te was", state)
    expected, whole = runtime.read("The gate was")
    assert np.abs(logits - expected).max() < 1e-5
    assert np.abs(after - whole).max() < 1e-6
    step, _ = runtime.step(runtime.tokenizer.encode("t"), state)
    assert np.abs(step - runtime.read("The gat")[0]).max() < 1e-5


def test_step_without_a_state_starts_from_zeros(runtime: Runtime) -> None:
    ids = np.arange(B)
    for actual in (runtime.step(ids), runtime.step(ids, None)):
        for value, expected in zip(actual, runtime.step(ids, runtime.initial_state(B)), strict=True):
            assert np.array_equal(value, expected)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((L, B, H + 1), f"({L}, {B}, {H}) (layers, sequences, hidden units), got ({L}, {B}, {H + 1})"),
        ((L + 1, B, H), f"({L}, {B}, {H}) (layers, sequences, hidden units), got ({L + 1}, {B}, {H})"),
        ((B, L, H), f"({L}, {B}, {H}) (layers, sequences, hidden units), got ({B}, {L}, {H})"),
        ((B, H), f"({L}, {B}, {H}) (layers, sequences, hidden units), got ({B}, {H})"),
        ((), f"({L}, {B}, {H}) (layers, sequences, hidden units), got ()"),
    ],
)
def test_states_of_other_models_are_refused(runtime: Runtime, shape: tuple[int, ...], message: str) -> None:
    ids, state = np.zeros((T, B), int), np.zeros(shape, np.float32)
    for call in (lambda: runtime.step(ids[0], state), lambda: runtime.losses(ids, ids, state)):
        with pytest.raises(InputError, match=re.escape(message)):
            call()
    with pytest.raises(InputError, match="the state must be"):
        runtime.read("gate", state)
    with pytest.raises(InputError, match=re.escape(f"the state must be ({L}, 1, {H})")):
        runtime.read("gate", runtime.initial_state(B))
    with pytest.raises(InputError, match=re.escape("the state must hold real numbers, got complex64")):
        runtime.step(ids[0], np.zeros((L, B, H), np.complex64))


def test_invalid_ids_are_refused(runtime: Runtime) -> None:
    state, ids = runtime.initial_state(B), np.zeros((T, B), int)
    for wrong, message in (
        (
            ids,
            r"step reads ids \(B,\), one for each sequence, got \(5, 3\): for several steps call read\(text, state\)",
        ),
        (ids[0].astype(np.float32), "ids must be integers, got float32"),
        (ids[0].astype(bool), "ids must be integers, got bool"),
        ("abc", "ids must be integers, got <U3"),
        (None, "ids must be integers, got object"),
    ):
        with pytest.raises(InputError, match=message):
            runtime.step(wrong, state)
    for low in (-1, V, -(2**63)):
        for call in (
            lambda low=low: runtime.step(np.array([0, low, 0]), state),
            lambda low=low: runtime.losses(np.array([[0, low, 0]]), ids[:1], state),
        ):
            with pytest.raises(IndexError, match=f"ids must be from 0 to {V - 1}, got {min(low, 0)} to {max(low, 0)}"):
                call()
    with pytest.raises(IndexError, match="ids must be from 0 to"):
        runtime.step(np.full(B, 2**64 - 1, np.uint64), state)


def test_invalid_targets_are_refused(runtime: Runtime) -> None:
    """-1 must not select the logit of the last id."""
    ids = np.arange(T * B).reshape(T, B) % V
    for wrong in (-1, V, 10**12):
        y = ids.copy()
        y[2, 1] = wrong
        with pytest.raises(IndexError, match=f"targets must be from 0 to {V - 1}, got {min(wrong, 0)} to"):
            runtime.losses(ids, y, None)
    for y in (ids[:-1], ids[0], ids.T, ids.ravel()):
        with pytest.raises(InputError, match=r"x and y must be ids of the same shape \(T, B\), got \(5, 3\) and \("):
            runtime.losses(ids, y, None)
    with pytest.raises(InputError, match="targets must be integers, got float64"):
        runtime.losses(ids, ids.astype(float), None)
    with pytest.raises(InputError, match=r"x and y must be ids of the same shape \(T, B\), got \(3,\) and \(3,\)"):
        runtime.losses(ids[0], ids[0], None)


def test_no_steps_and_no_sequences(runtime: Runtime) -> None:
    state = drawn(0, L, B, H)
    nats, after = runtime.losses(np.zeros((0, B), int), np.zeros((0, B), int), state)
    assert nats.shape == (0, B)
    assert np.array_equal(after, state)
    assert after is not state
    logits, after = runtime.step(np.zeros(0, int), runtime.initial_state(0))
    assert (logits.shape, after.shape) == ((0, V), (L, 0, H))
    nats, after = runtime.losses(np.zeros((T, 0), int), np.zeros((T, 0), int), None)
    assert (nats.shape, after.shape) == ((T, 0), (L, 0, H))


@pytest.mark.parametrize("layout", [*LAYOUTS, "float64", "float16"])
def test_a_state_in_any_layout_gives_the_same(runtime: Runtime, layout: str) -> None:
    change = LAYOUTS.get(layout, lambda v: v.astype(layout))
    state = drawn(1, L, B, H).astype(np.float16).astype(np.float32)
    ids = np.array([[2, 0, 4], [1, 3, 5]])
    laid, laid_ids = change(state), ids if layout.startswith("float") else change(ids)
    before = copy.deepcopy(laid)
    for actual, expected in (
        (runtime.step(LAYOUTS.get(layout, lambda v: v)(ids[0]), laid), runtime.step(ids[0], state)),
        (runtime.losses(laid_ids, laid_ids, laid), runtime.losses(ids, ids, state)),
    ):
        for value, reference in zip(actual, expected, strict=True):
            assert np.array_equal(value, reference)
    assert np.array_equal(laid, before)


def test_a_state_is_not_changed_by_any_call(monkeypatch) -> None:
    """It stays unchanged even at the start of a document, and if nothing is read."""
    for engine in ("native", "numpy"):
        model = build(engine, monkeypatch, DocumentTokenizer(TOKENIZER))
        state, one = drawn(2, L, B, H), drawn(3, L, 1, H)
        before = state.copy(), one.copy()
        ids = np.array([[V, 1, 2], [3, V, 4]])
        _, after = model.step(ids[0], state)
        assert not np.shares_memory(after, state)
        _, after = model.losses(ids, ids, state)
        assert not np.shares_memory(after, state)
        _, after = model.read("gate", one)
        assert not np.shares_memory(after, one)
        assert all(map(np.array_equal, (state, one), before))


def test_unusual_arguments_of_the_runtime(runtime: Runtime) -> None:
    """Arguments that can be converted give the same numbers, all others an exception."""
    ids, state = np.random.default_rng(4).integers(V, size=(T, B)), drawn(4, L, B, H)
    targets = ids[::-1].copy()
    calls: dict[str, tuple[Callable[..., Any], tuple[Array, ...]]] = {
        "step": (runtime.step, (ids[0], state)),
        "losses": (runtime.losses, (ids, targets, state)),
        "read": (lambda state: runtime.read("gate", state), (state[:, :1].copy(),)),
    }
    refused = accepted = 0
    for name, (call, arguments) in calls.items():
        for place, argument in enumerate(arguments):
            for change, value in spoilt(argument):
                inputs = [value if i == place else v for i, v in enumerate(arguments)]
                try:
                    with np.errstate(all="ignore"):
                        actual = call(*inputs)
                except REFUSED:
                    refused += 1
                    continue
                accepted += 1
                plain = None if value is None else np.array(value, argument.dtype)
                expected = call(*(plain if i == place else v for i, v in enumerate(arguments)))
                for one, other in zip(actual, expected, strict=True):
                    assert np.array_equal(one, other), (name, place, change)
    assert refused > 60
    assert accepted > 30


def test_invalid_lengths_and_widths_are_refused(runtime: Runtime) -> None:
    for wrong in (-1, 2.5, "4", None):
        for call in (runtime.generate, lambda *a: list(runtime.stream(*a)), lambda *a: runtime.beam_search(*a, 2)):
            with pytest.raises(InputError, match="length must be a whole number of at least 0, got "):
                call("a", wrong)
    for length in (2**31, 10**12, 10**30):
        with pytest.raises(
            InputError, match=rf"at most [\d,]+ tokens can be generated at once, got {length:,}: reduce the length"
        ):
            runtime.generate("a", length)
    for width, length in ((10**9, 20), (10**30, 10**30), (2, 10**12)):
        with pytest.raises(
            InputError, match=r"a beam of width [\d,]+ and length [\d,]+ is too large: it can hold at most"
        ):
            runtime.beam_search("a", length, width)
    assert runtime.beam_search("a", 1, 10**30)[0] == runtime.beam_search("a", 1, V)[0]  # at most V beams exist
    assert next(runtime.stream("a", 10**30)) == runtime.generate("a", 1)[1:]


def test_a_lone_surrogate_is_read_as_an_unknown_character(monkeypatch) -> None:
    tokenizer = CharacterTokenizer.from_text("ab")
    for engine in ("native", "numpy"):
        model = build(engine, monkeypatch, tokenizer)
        with pytest.warns(UserWarning, match="not in the vocabulary"):
            assert model.generate("a\ud800", 5)[2:] == model.generate("a\N{REPLACEMENT CHARACTER}", 5)[2:]
        assert model.log_probabilities("a\ud800b").shape == (2,)


# --- the library's model ----------------------------------------------------------------------------------------------


def model_parts(seed: int = 5) -> tuple[Array, list[tuple[Array, ...]], tuple[Array, Array]]:
    E, result = 4, []
    for layer in range(L):
        size = H if layer else E
        result.append((drawn(seed, 3 * H, size), drawn(6, 3 * H, H), drawn(7, 3 * H), drawn(8, 3 * H)))
    return drawn(9, V, E), result, (drawn(10, V, H), drawn(11, V))


def model(**options: Any) -> NativeModel:
    embedding, layers, ends = model_parts()
    return NativeModel(embedding, layers, ends, **{"reset": "after", "threads": 1, **options})


def replaced(parts: Any, path: tuple[int, ...], value: Any) -> Any:
    if not path:
        return value
    return type(parts)(replaced(v, path[1:], value) if i == path[0] else v for i, v in enumerate(parts))


def test_inconsistent_weights_are_refused() -> None:
    """Such a model would read past the ends of its weights."""
    parts = model_parts()
    for path in ((0,), (1, 0, 0), (1, 0, 1), (1, 0, 2), (1, 0, 3), (1, 1, 0), (1, 1, 1), (1, 1, 3), (2, 0), (2, 1)):
        right = parts[path[0]] if len(path) == 1 else parts[path[0]][path[1]]
        right = right[path[2]] if len(path) == 3 else right
        for change in ("empty", "flat", "one more axis", "trailing axis", "swapped", "wider", "narrower", "scalar"):
            wrong = SHAPES[change](right)
            if wrong.shape == right.shape:
                continue
            with pytest.raises(ValueError, match="must"):
                NativeModel(*replaced(parts, path, wrong), reset="after", threads=1)
        with pytest.raises(ValueError, match="must"):
            NativeModel(*replaced(parts, path, right.astype(np.complex64)), reset="after", threads=1)
    for wrong in (
        (None, parts[1], parts[2]),  # the input of the first layer would be the vocabulary
        (parts[0], [], parts[2]),
        (None, [], parts[2]),
        (parts[0], [parts[1][0][:3]], parts[2]),
        (np.empty((V, 0), np.float32), [(np.empty((3 * H, 0), np.float32), *parts[1][0][1:])], parts[2]),
        (None, [(np.empty((3 * H, 0), np.float32), *parts[1][0][1:])], parts[2]),
        (parts[0], parts[1], (np.empty((0, H), np.float32), np.empty(0, np.float32))),
    ):
        if wrong[0] is None and wrong[1] == parts[1]:
            assert NativeModel(*wrong, reset="after", threads=1).V == 4
            continue
        with pytest.raises(ValueError, match="must"):
            NativeModel(*wrong, reset="after", threads=1)
    for options in ({"reset": "both"}, {"precision": "int4"}, {"threads": 0}):
        with pytest.raises(ValueError, match="must be"):
            model(**options)


def test_weights_in_any_layout_give_the_same() -> None:
    parts, ids, state = model_parts(), np.arange(B), drawn(12, L, B, H)
    expected = model().step(ids, state)
    for layout in ("Fortran", "strided", "backwards", "read-only", "misaligned", "byte order"):
        change = LAYOUTS[layout]
        embedding, layers, ends = parts
        changed = change(embedding), [tuple(map(change, layer)) for layer in layers], tuple(map(change, ends))
        actual = NativeModel(*changed, reset="after", threads=1).step(ids, state)
        assert all(map(np.array_equal, actual, expected)), layout


@pytest.mark.parametrize("precision", native.PRECISIONS)
def test_unusual_arguments_of_the_native_model(precision: str) -> None:
    """Arrays in the layout of the library give correct numbers, all others an exception."""
    ours, random = model(precision=precision), np.random.default_rng(13)
    ids, state, how = random.integers(V, size=(T, B)), drawn(14, L, B, H), Sampling(1.2, 0.9, 5, 0.9, 0.01)
    forbidden, seen = random.random((2, V)) < 0.3
    forbidden[1] = False

    def generate(*arguments: Any) -> Any:
        uniform, forbidden, *written = arguments
        written = [v.copy() if isinstance(v, np.ndarray) and v.flags.carray and v.size < 1000 else v for v in written]
        return ours.generate(how, uniform, forbidden, *written), *written

    calls: dict[str, tuple[Callable[..., Any], tuple[Array, ...]]] = {
        "step": (ours.step, (ids[0], state)),
        "read": (ours.read, (ids, state)),
        "logits": (lambda outputs: (ours.logits(outputs),), (drawn(15, T, H),)),
        "generate": (generate, (random.random(T), forbidden, seen, drawn(16, V), state[:, :1].copy())),
    }
    refused = 0
    for name, (call, arguments) in calls.items():
        for place, argument in enumerate(arguments):
            for change, value in spoilt(argument):
                inputs = [value if i == place else v for i, v in enumerate(arguments)]
                try:
                    actual = call(*inputs)
                except REFUSED:
                    refused += 1
                    continue
                assert (value.dtype, value.ndim) == (argument.dtype, argument.ndim), (name, place, change)
                if value.shape != argument.shape:  # only lengths that nothing else determines
                    assert (name, place) in (("read", 0), ("logits", 0), ("generate", 0)), (name, place, change)
                expected = call(*(np.array(value) if i == place else v for i, v in enumerate(arguments)))
                assert all(map(np.array_equal, actual, expected)), (name, place, change)
    assert refused > 250
    for name, wrong in (("step", ids[0] + V), ("read", ids - V)):
        with pytest.raises(IndexError, match=f"ids must be from 0 to {V - 1}, got"):
            getattr(ours, name)(wrong, state)
    assert ours.read(np.empty((2**40, 0), np.int64), state[:, :0])[0].shape == (2**40, 0, H)
    with pytest.raises(AttributeError):
        ours.generate(None, *calls["generate"][1])


def test_generate_updates_its_arguments_and_needs_a_whole_head() -> None:
    embedding, layers, (weight, bias) = model_parts()
    part = NativeModel(embedding, layers, (weight[:5], bias[:5]), reset="after", threads=1)
    how, logits, state = Sampling(), drawn(17, V), drawn(18, L, 1, H)
    arguments = np.zeros(2), np.zeros(V, bool), np.zeros(V, bool), logits, state
    with pytest.raises(ValueError, match=f"generate needs a head of {V} rows, this one has 5"):
        part.generate(how, *arguments)
    before = logits.copy(), state.copy()
    result = model().generate(how, *arguments)
    assert arguments[2][result].all()
    assert not np.array_equal(logits, before[0])
    assert not np.array_equal(state, before[1])
    with pytest.raises(ValueError, match="state must be"):
        model().generate(how, *arguments[:-1], read_only(state))


def test_a_copy_of_a_model_outlives_it() -> None:
    """Two owners of the same native model would free it twice."""
    ids, state = np.arange(B), drawn(19, L, B, H)
    first = model()
    expected = first.step(ids, state)
    for other in (copy.copy(first), copy.deepcopy(first)):
        assert all(map(np.array_equal, other.step(ids, state), expected))
    del first
    assert all(map(np.array_equal, other.step(ids, state), expected))
    with pytest.raises(TypeError, match="cannot be pickled"):
        other.__reduce__()


# --- the kernels ------------------------------------------------------------------------------------------------------


class Own(Tensor):
    """A user's subclass, which checks of plain tensors ignore."""


def torch_misaligned(value: Tensor) -> Tensor:
    raw = torch.zeros(value.nbytes + 1, dtype=torch.uint8)
    raw[1:] = value.contiguous().view(-1).view(torch.uint8)
    return torch.frombuffer(raw.numpy(), dtype=value.dtype, offset=1, count=value.numel()).view(value.shape)


def torch_spoilt(value: Tensor) -> Iterator[tuple[str, bool, Tensor]]:
    """Yield (change, True if the numbers stay the same, changed tensor)."""
    yield "strided", True, torch.stack([value, value], -1)[..., 0]
    yield "transposed", True, value.mT.contiguous().mT if value.dim() > 1 else value
    yield "misaligned", True, torch_misaligned(value)
    yield "subclass", True, value.clone().as_subclass(Own)
    if value.is_floating_point():
        yield "negative view", True, torch._neg_view(-value)
    for dtype in (
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
        torch.complex64,
        torch.int32,
        torch.bool,
    ):
        if dtype != value.dtype:
            yield str(dtype), False, value.to(dtype)
    yield "meta", False, value.to("meta")
    yield "flat", False, value.flatten()
    yield "one more axis", False, value[None]
    yield "shorter", False, value[:-1]
    yield "longer", False, torch.cat([value, value])
    yield "narrower", False, value[..., :-1].contiguous()
    yield "empty", False, value[:0]
    yield "expanded", False, value.flatten()[:1].expand(2**40)


def is_equal(one: Tensor, other: Tensor) -> bool:
    alike = (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)
    return alike and torch.equal(one, other)


def gru_arguments(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    I = 4  # noqa: E741
    torch.manual_seed(20)
    sizes = {
        "x": (T, B, I), "h0": (B, H), "weight_ih": (3 * H, I), "weight_hh": (3 * H, H), "bias_ih": (3 * H,),
        "bias_hh": (3 * H,), "reset_state": (H,),
    }  # fmt: skip
    result = {name: torch.randn(size, dtype=dtype) / 2 for name, size in sizes.items()}
    return result | {"lengths": torch.tensor([T, 0, 2]), "resets": torch.rand(T, B) < 0.4}


def fields(inputs: dict[str, Tensor]) -> native_gru._Arguments:
    return native_gru._Arguments(**inputs, before=False, reverse=False, invariant=True)


@pytest.mark.parametrize("ids", [False, True], ids=["numbers", "ids"])
def test_unusual_arguments_of_the_kernel(ids: bool) -> None:
    """The backend, the operator and its gradient give the numbers of the definition, or an exception."""
    right = gru_arguments()
    if ids:
        right["x"] = torch.randint(4, (T, B))
    exact = {k: v.double() if v.is_floating_point() else v for k, v in right.items()}
    expected = unbundled(equations.sequence)(**exact)
    needed = [not ids, True, True, True, True, True, True]
    outputs = torch.ops.headgate.gru(*fields(right), True)
    incoming = [torch.randn_like(outputs[0]), torch.randn_like(outputs[1]), None]
    gradients = torch.ops.headgate.gru_backward(*fields(right), outputs[0], outputs[2], *incoming, needed)
    refused = accepted = 0
    for name, value in right.items():
        for change, same, wrong in torch_spoilt(value):
            inputs = right | {name: wrong}
            same = same or is_equal(wrong, value)
            # With a meta tensor, the operator is the one that computes only shapes.
            for way in ("backend",) if wrong.is_meta else ("backend", "operator", "gradient"):
                try:
                    if way == "backend":
                        actual = gru(**inputs, backend="native")
                    elif way == "operator":
                        actual = torch.ops.headgate.gru(*fields(inputs), True)[:2]
                    else:
                        actual = torch.ops.headgate.gru_backward(
                            *fields(inputs), outputs[0], outputs[2], *incoming, needed
                        )
                except REFUSED:
                    assert not same or change == "subclass", (name, change, way)
                    refused += 1
                    continue
                accepted += 1
                # lengths and ids of other integer types are read directly
                assert same or (wrong.dtype is torch.int32 and not value.is_floating_point()), (name, change, way)
                for one, other in zip(actual, gradients if way == "gradient" else expected, strict=True):
                    assert (one.double() - other.double()).abs().max() < 1e-5, (name, change, way)
    assert refused > 200
    assert accepted > 60
    for place, value in (("states", outputs[0]), ("gates", outputs[2]), ("d_states", incoming[0])):
        for _, same, wrong in torch_spoilt(value):
            if same or wrong.is_meta:
                continue
            inputs = {"states": outputs[0], "gates": outputs[2], "d_states": incoming[0]} | {place: wrong}
            with pytest.raises(REFUSED):
                torch.ops.headgate.gru_backward(
                    *fields(right), inputs["states"], inputs["gates"], inputs["d_states"], incoming[1], None, needed
                )


def test_a_gradient_of_ids_is_refused() -> None:
    inputs = gru_arguments() | {"x": torch.randint(4, (T, B))}
    states, last, gates = torch.ops.headgate.gru(*fields(inputs), True)
    with pytest.raises(RuntimeError, match="ids have no gradient"):
        torch.ops.headgate.gru_backward(*fields(inputs), states, gates, states, last, None, [True] + [False] * 6)


def test_ids_and_lengths_out_of_range_reach_no_kernel() -> None:
    """They are refused even in a compiled program, which does not check values, and in an unchecked subclass."""
    right = gru_arguments() | {"x": torch.randint(4, (T, B))}
    for name, place, wrong, message in (
        ("x", (1, 1), 4, "ids must be from 0 to 3, got 0 to 4"),
        ("x", (1, 1), -1, "ids must be from 0 to 3, got -1 to"),
        ("lengths", (1,), T + 1, f"lengths must be from 0 to {T}, got 2 to {T + 1}"),
        ("lengths", (1,), -1, f"lengths must be from 0 to {T}, got -1 to {T}"),
    ):
        value = right[name].clone()
        if name == "x":
            value.zero_()
        value[place] = wrong
        for inputs in (right | {name: value}, right | {name: value.as_subclass(Own)}):
            with pytest.raises(RuntimeError, match=message):
                torch.ops.headgate.gru(*fields(inputs), False)
            states, gates = torch.ops.headgate.gru(*fields(right), True)[::2]
            with pytest.raises(RuntimeError, match=message):
                torch.ops.headgate.gru_backward(
                    *fields(inputs), states, gates, states, None, None, [False] + [True] * 6
                )
        with pytest.raises(RuntimeError, match=message):
            unbundled(native_gru.sequence)(**right | {name: value.as_subclass(Own)})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_sizes_of_zero(dtype: torch.dtype) -> None:
    right = gru_arguments(dtype)
    none = {"lengths": None, "resets": None, "reset_state": None}
    for inputs in (
        right | none | {"x": right["x"][:0]},
        right | none | {"x": right["x"][:, :0], "h0": right["h0"][:0]},
        right | none | {"x": right["x"][..., :0], "weight_ih": right["weight_ih"][:, :0]},
    ):
        leaves = {k: v.detach().requires_grad_() for k, v in inputs.items() if v is not None}
        actual = unbundled(native_gru.sequence)(**leaves)
        expected = unbundled(equations.sequence)(**leaves)
        for one, other in zip(actual, expected, strict=True):
            assert one.shape == other.shape
            assert torch.allclose(one, other, atol=1e-6)
        sum(v.sum() for v in actual).backward()
        assert all(v.grad is not None and v.grad.isfinite().all() for v in leaves.values())
    x, h0, ih, hh = (right[name] for name in ("x", "h0", "weight_ih", "weight_hh"))
    with pytest.raises(RuntimeError, match="with H > 0"):  # the definition does not allow it either
        unbundled(native_gru.sequence)(x, h0[:, :0], ih[:0], hh[:0, :0])


def test_unusual_arguments_of_the_head() -> None:
    N, size = 7, 6
    torch.manual_seed(21)
    right = {
        "states": torch.randn(N, H), "weight": torch.randn(size, H), "bias": torch.randn(size),
        "targets": torch.randint(size, (N,)),
    }  # fmt: skip
    logits = right["states"].double() @ right["weight"].double().T + right["bias"].double()
    expected = torch.nn.functional.cross_entropy(logits, right["targets"], reduction="none")
    refused = 0
    for name, value in right.items():
        for change, same, wrong in torch_spoilt(value):
            inputs, same = right | {name: wrong}, same or is_equal(wrong, value)
            for way in (cross_entropy.losses, cross_entropy.mean_loss):
                try:
                    actual = way(*inputs.values(), True)
                except REFUSED:
                    assert not same, (name, change)
                    refused += 1
                    continue
                assert same or (name, change) == ("targets", "torch.int32"), (name, change)
                reference = expected if way is cross_entropy.losses else expected.mean()
                assert (actual.double() - reference).abs().max() < 1e-5, (name, change)
    assert refused > 80
    for wrong in (-1, size, 2**40):
        targets = right["targets"].clone()
        targets[3] = wrong
        for value in (targets, targets.as_subclass(Own)):
            for way in (cross_entropy.losses, cross_entropy.mean_loss):
                with pytest.raises(RuntimeError, match=f"targets must be from 0 to {size - 1}, got"):
                    way(*(right | {"targets": value}).values(), True)
    nothing = cross_entropy.losses(right["states"][:0], right["weight"][:0], None, right["targets"][:0], True)
    assert nothing.shape == (0,)
    narrow = cross_entropy.losses(right["states"][:, :0], right["weight"][:, :0], right["bias"], right["targets"], True)
    assert torch.allclose(narrow, -right["bias"].log_softmax(0)[right["targets"]], atol=1e-6)
