"""The native library by itself, with every instruction set: accuracy, memory, threads, loading.

Only tests that compare with torch import it, because parts of this file run in processes without torch.
"""

import ctypes
import dataclasses
import functools
import hashlib
import itertools
import mmap
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headgate import native
from headgate.runtime.native_model import NativeModel
from tests.helpers.levels import levels

ROOT = Path(__file__).parent.parent  # not from conftest.py, which imports torch

LANES = native.GATE_LANES
SUFFIXES = {"float32": "float", "float64": "double"}
Array = np.ndarray[Any, Any]
Place = Callable[[str, Array], Array]  # puts an argument of that name into memory


@pytest.fixture(params=levels(), ids=lambda level: native.LEVELS[level])
def level(request) -> Iterator[int]:
    library = native.load()
    best = library.headgate_level()
    assert library.headgate_use_level(request.param) == 0
    yield request.param
    library.headgate_use_level(best)


# --- a call, without torch --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    T: int
    B: int
    I: int  # noqa: E741
    H: int
    before: bool = False
    reverse: bool = False
    ids: bool = False
    lengths: bool = False
    resets: bool = False
    fresh: bool = True  # resets start from a learned state
    bias: bool = True
    strided: bool = False  # the input is batch first
    threads: int = 1
    dtype: str = "float32"
    invariant: bool = True


def blocked(gates: Array) -> Array:
    """Convert (T, B, 4, H) to the layout of the header, with NaN beyond H, where nothing may be read."""
    T, B, _, H = gates.shape
    result = np.full((T, -(-H // LANES), B, 4, LANES), np.nan, gates.dtype)
    for unit in range(H):
        result[:, unit // LANES, ..., unit % LANES] = gates[..., unit]
    return result


def unblocked(gates: Array, H: int) -> Array:
    return np.stack([gates[:, unit // LANES, ..., unit % LANES] for unit in range(H)], -1)


@functools.lru_cache(64)
def inputs(p: Problem) -> dict[str, Array]:
    random = np.random.default_rng(p.T * 10000 + p.B * 100 + p.H)

    def draw(*shape: int) -> Array:
        return random.standard_normal(shape).astype(p.dtype)

    arrays = {
        "h0": draw(p.B, p.H),
        "weight_ih": draw(3 * p.H, p.I) / p.I**0.5,
        "weight_hh": draw(3 * p.H, p.H) / p.H**0.5,
        "d_states": draw(p.T, p.B, p.H),
        "d_last": draw(p.B, p.H),
        "d_gates": blocked(draw(p.T, p.B, 4, p.H)),
    }
    if p.ids:
        arrays["ids"] = random.integers(p.I, size=(p.T, p.B))
    else:
        arrays["x"] = draw(p.B, p.T, p.I) if p.strided else draw(p.T, p.B, p.I)
    if p.bias:
        arrays |= {"bias_ih": draw(3 * p.H), "bias_hh": draw(3 * p.H)}
    if p.lengths:
        arrays["lengths"] = random.integers(p.T + 1, size=p.B)
    if p.resets:
        arrays["resets"] = (random.random((p.T, p.B)) < 0.4).astype(np.uint8)
    if p.resets and p.fresh:
        arrays["reset_state"] = draw(p.H)
    return arrays


def shapes(p: Problem) -> dict[str, tuple[int, ...]]:
    """Return the shapes of what forward and backward write."""
    return {
        "states": (p.T, p.B, p.H),
        "last": (p.B, p.H),
        "gates": (p.T, -(-p.H // LANES), p.B, 4, LANES),
        **({} if p.ids else {"d_x": (p.T, p.B, p.I)}),
        "d_h0": (p.B, p.H),
        "d_weight_ih": (3 * p.H, p.I),
        "d_weight_hh": (3 * p.H, p.H),
        "d_bias_ih": (3 * p.H,),
        "d_bias_hh": (3 * p.H,),
        "d_reset_state": (p.B, p.H),
    }


def copied(_: str, array: Array) -> Array:
    return array.copy()


def run(p: Problem, place: Place = copied, without: tuple[str, ...] = ()) -> dict[str, Array]:
    """Run forward and backward; return all defined values that they write. `without`: arguments that are null."""
    library = native.load()
    read = {name: place(name, v) for name, v in inputs(p).items() if name not in without}
    written = {
        name: place(name, np.full(shape, np.nan, p.dtype)) for name, shape in shapes(p).items() if name not in without
    }
    pointers = {name: v.ctypes.data for name, v in (read | written).items()}
    x_t, x_b = (p.I, p.T * p.I) if p.strided else (p.B * p.I, p.I)
    described = native.Gru(
        **{name: getattr(p, name) for name in ("T", "B", "I", "H", "reverse", "threads")},
        reset=p.before, one_hot=p.ids, invariant=p.invariant, x_t=x_t, x_b=x_b,
        **{name: at for name, at in pointers.items() if not name.startswith("d_")},
    )  # fmt: skip
    gradients = native.Gradients(**{name: at for name, at in pointers.items() if name.startswith("d_")})
    suffix = SUFFIXES[p.dtype]
    assert getattr(library, f"headgate_forward_{suffix}")(ctypes.byref(described)) == 0
    if "gates" in written:
        assert getattr(library, f"headgate_backward_{suffix}")(ctypes.byref(described), ctypes.byref(gradients)) == 0
    results = {name: v.copy() for name, v in written.items()}
    if "gates" in results:
        results["gates"] = unblocked(results["gates"], p.H)
        if p.before:
            results["gates"][:, :, 3] = 0
    return results


def assert_same_bits(found: dict[str, Array], expected: dict[str, Array], what: object = "") -> None:
    for name, value in found.items():
        assert not np.isnan(value).any(), f"{name} is not all written: {what}"
        assert value.tobytes() == expected[name].tobytes(), f"{name} differs: {what}"


def digest(found: dict[str, Array]) -> str:
    return hashlib.sha256(b"".join(found[name].tobytes() for name in sorted(found))).hexdigest()


def python(code: str, **environment: str) -> str:
    """Run code in a new process, in which `here` is this file, and return what it prints; a crash fails the test."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-X", "faulthandler", "-c", f"import tests.test_native as here\n{code}"],
        cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout[-1000:]}\n{done.stderr[-5000:]}"
    return done.stdout


# --- sigmoid and tanh -------------------------------------------------------------------------------------------------


BOUND = float(re.search(r"([\d.]+) units in the last\s+(?://\s+)?place", (ROOT / "native/activation.h").read_text())[1])


def apply(name: str, x: Array, y: Array | None = None) -> Array:
    """Compute y[: len(x)] = f(x)."""
    y = np.empty_like(x) if y is None else y
    f = getattr(native.load(), f"headgate_{name}_{SUFFIXES[x.dtype.name]}")
    f(ctypes.c_int64(len(x)), ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(y.ctypes.data))
    return y


def exact(name: str, x: Array) -> Array:
    """Compute a function in the precision of x, which is higher than the tested one."""
    if name == "tanh":
        return np.tanh(x)
    e = np.exp(-abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


def largest_error(name: str, x: Array, wide: type) -> float:
    """Return the largest error in units in the last place, among exact values that are normal numbers."""
    expected, info = exact(name, x.astype(wide)), np.finfo(x.dtype)
    normal = abs(expected) >= info.smallest_normal
    difference, expected = abs(apply(name, x).astype(wide) - expected)[normal], expected[normal]
    unit = np.ldexp(wide(1), np.frexp(expected)[1] - info.nmant - 1)
    return float((difference / unit).max())


def all_floats(stride: int) -> Array:
    x = np.arange(0, 2**32, stride, dtype=np.uint32).view(np.float32)
    return x[np.isfinite(x)]


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_float_error_is_within_the_bound(name: str, level: int) -> None:
    dense = np.linspace(-20, 20, 1_000_001, dtype=np.float32)
    edges = np.linspace(-89, 89, 500_001, dtype=np.float32)
    for x in (all_floats(2039), dense, edges):
        assert largest_error(name, x, np.float64) <= BOUND


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 60, reason="no floating type wider than double")
@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_double_error_is_within_the_bound(name: str, level: int) -> None:
    bits = np.random.default_rng(1).integers(0, 2**64, 50_000, np.uint64).view(np.float64)
    worst = np.linspace(0.1, 0.4, 100_001)
    for x in (worst, np.linspace(-40, 40, 100_001), np.linspace(-745, 745, 50_001), bits[np.isfinite(bits)]):
        assert largest_error(name, x, np.longdouble) <= BOUND


@pytest.mark.parametrize("dtype", SUFFIXES)
def test_activations_of_special_values(dtype: str, level: int) -> None:
    tiny, inf = np.finfo(dtype).smallest_subnormal, np.inf
    lowest = np.log(np.finfo(dtype).smallest_normal)  # the sigmoid is the smallest normal number there
    x = np.array([-inf, inf, np.nan, -0.0, 0.0, tiny, -tiny, 2 * lowest, -2 * lowest, lowest - 1, -1e30, 1e30], dtype)
    expected = np.array([0, 1, np.nan, 0.5, 0.5, 0.5, 0.5, 0, 1, 0, 0, 1], dtype)
    values = apply("sigmoid", x)
    np.testing.assert_array_equal(np.delete(values, 9), np.delete(expected, 9))
    assert 0 <= values[9] <= np.finfo(dtype).smallest_normal  # a subnormal number, or 0
    assert not np.signbit(values[:2]).any()
    values, expected = apply("tanh", x), np.array([-1, 1, np.nan, -0.0, 0, tiny, -tiny, -1, 1, -1, -1, 1], dtype)
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(np.signbit(values[3:5]), [True, False])
    subnormal = np.linspace(-1, 1, 1001).astype(dtype) * np.finfo(dtype).smallest_normal
    np.testing.assert_array_equal(apply("tanh", subnormal), subnormal)
    for name in ("sigmoid", "tanh"):
        payload = np.full(67, np.nan, dtype)
        assert np.isnan(apply(name, payload)).all()


@pytest.mark.parametrize("dtype", SUFFIXES)
@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_saturates_from_below(name: str, dtype: str, level: int) -> None:
    """As the value approaches 1 it never falls, and never exceeds 1."""
    begin, end = {"sigmoid": (12, 40), "tanh": (6, 20)}[name]
    for x in (np.linspace(begin, end, 2_000_001).astype(dtype), np.geomspace(end, np.finfo(dtype).max / 2, 10001)):
        y = apply(name, x.astype(dtype))
        assert (np.diff(y) >= 0).all()
        assert y[-1] == 1


@pytest.mark.parametrize("dtype", SUFFIXES)
@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_results_do_not_depend_on_the_length_of_the_array(name: str, dtype: str, level: int) -> None:
    x = np.random.default_rng(1).standard_normal(2 * 16 + 3).astype(dtype)
    alone = np.concatenate([apply(name, x[i : i + 1]) for i in range(len(x))])
    for n in range(len(x) + 1):
        y = np.full(n + 40, -7, dtype)
        apply(name, x[:n], y)
        assert y[:n].tobytes() == alone[:n].tobytes()
        assert (y[n:] == -7).all()


# --- memory -----------------------------------------------------------------------------------------------------------


class Guarded:
    """A Place between two protected pages, flush against the page after it or the page before it."""

    SIZE = 1 << 19

    def __init__(self, at_end: bool) -> None:
        self.at_end = at_end
        self.regions: dict[str, mmap.mmap] = {}

    def region(self, name: str) -> mmap.mmap:
        if name not in self.regions:
            page, memory = mmap.PAGESIZE, mmap.mmap(-1, self.SIZE + 2 * mmap.PAGESIZE)
            start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
            protect = ctypes.CDLL(None, use_errno=True).mprotect
            for at in (start, start + page + self.SIZE):
                assert protect(ctypes.c_void_p(at), ctypes.c_size_t(page), 0) == 0, os.strerror(ctypes.get_errno())
            self.regions[name] = memory
        return self.regions[name]

    def __call__(self, name: str, array: Array) -> Array:
        assert array.nbytes <= self.SIZE
        offset = mmap.PAGESIZE + (self.SIZE - array.nbytes) * self.at_end
        placed = np.frombuffer(self.region(name), array.dtype, array.size, offset).reshape(array.shape)
        placed[...] = array
        return placed


def awkward_problems() -> Iterator[Problem]:
    """Yield every H up to several vectors for each kind of GRU, and random values of the rest."""
    choice, yes_or_no = random.Random(1).choice, (False, True)
    for H in range(1, 68):
        for before, ids, dtype, _ in itertools.product(yes_or_no, yes_or_no, SUFFIXES, range(2)):
            yield Problem(
                choice((1, 2, 3, 5)), choice((1, 3, 17)), choice((1, 3, 7, 17, 33, 60)), H, before, choice(yes_or_no),
                ids, choice(yes_or_no), choice(yes_or_no), choice(yes_or_no), choice((False, True, True)),
                choice(yes_or_no), choice((1, 1, 1, 2)), dtype,
            )  # fmt: skip
    for H, before, invariant in itertools.product((128, 129, 144, 161), yes_or_no, yes_or_no):  # on tiles
        yield Problem(
            choice((1, 2)), choice((32, 33, 49)), choice((1, 16, 33, 60)), H, before, choice(yes_or_no),
            choice(yes_or_no), choice(yes_or_no), choice(yes_or_no), threads=choice((1, 2)), invariant=invariant,
        )  # fmt: skip


@dataclass(frozen=True)
class HeadProblem:
    N: int
    H: int
    V: int
    bias: bool
    threads: int
    dtype: str
    invariant: bool = True


def run_head(p: HeadProblem, place: Place = copied) -> dict[str, Array]:
    random = np.random.default_rng(p.N * 10000 + p.H * 100 + p.V)
    read = {
        "states": random.standard_normal((p.N, p.H)).astype(p.dtype),
        "weight": random.standard_normal((p.V, p.H)).astype(p.dtype),
        "targets": random.integers(p.V, size=p.N),
    }
    if p.bias:
        read["bias"] = random.standard_normal(p.V).astype(p.dtype)
    shapes = {"losses": (p.N,), "d_states": (p.N, p.H), "d_weight": (p.V, p.H), "d_bias": (p.V,)}
    read = {name: place(name, v) for name, v in read.items()}
    written = {name: place(name, np.full(shape, np.nan, p.dtype)) for name, shape in shapes.items()}
    pointers = {name: v.ctypes.data for name, v in (read | written).items()}
    described = native.Head(
        N=p.N, H=p.H, V=p.V, scale=1 / max(p.N, 1), threads=p.threads, invariant=p.invariant, **pointers
    )
    native.call(f"cross_entropy_{SUFFIXES[p.dtype]}", described)
    return {name: v.copy() for name, v in written.items()}


def awkward_heads() -> Iterator[HeadProblem]:
    choice = random.Random(1).choice
    tokens, words = (0, 1, 2, 5, 70, 300), (1, 2, 3, 7, 8, 9, 15, 16, 17, 33)
    for N, V, dtype, _ in itertools.product(tokens, words, SUFFIXES, range(3)):
        yield HeadProblem(N, choice(range(1, 36)), V, choice((False, True)), choice((1, 1, 2)), dtype)
    for N, H, V, invariant in itertools.product((32, 70, 300), (128, 141), (1, 17, 150), (False, True)):  # on tiles
        yield HeadProblem(N, H, V, choice((False, True)), choice((1, 2)), "float32", invariant)


@dataclass(frozen=True)
class ModelProblem:
    T: int
    B: int
    V: int
    E: int
    H: int
    layers: int
    before: bool
    precision: str
    how: tuple[float, float, float, float, int]
    threads: int


def run_model(p: ModelProblem, place: Place = copied) -> dict[str, Array]:
    """Run a model's four functions; return everything that they write."""
    random = np.random.default_rng(p.V * 10000 + p.H * 100 + p.T)

    def draw(name: str, *shape: int) -> Array:
        return place(name, random.standard_normal(shape).astype(np.float32) / np.float32(shape[-1] ** 0.5))

    layers = [
        (
            draw(f"weight_ih{layer}", 3 * p.H, p.H if layer else p.E or p.V), draw(f"weight_hh{layer}", 3 * p.H, p.H),
            draw(f"bias_ih{layer}", 3 * p.H), draw(f"bias_hh{layer}", 3 * p.H),
        )
        for layer in range(p.layers)
    ]  # fmt: skip
    model = NativeModel(
        draw("embedding", p.V, p.E) if p.E else None, layers, (draw("head", p.V, p.H), draw("head_bias", p.V)),
        reset="before" if p.before else "after", threads=p.threads, precision=p.precision,
    )  # fmt: skip
    library, results = native.load(), {}

    def call(name: str, *arguments: Any, **written: Array) -> None:
        """Call a function, whose last arguments are the arrays that it writes."""
        pointers = [v.ctypes.data if isinstance(v, np.ndarray) else v for v in (*arguments, *written.values())]
        assert getattr(library, f"headgate_model_{name}")(model._handle, *pointers) == 0
        results.update({f"{name}: {k}": v.copy() for k, v in written.items()})

    def blank(name: str, *shape: int, dtype: type = np.float32) -> Array:
        return place(name, np.full(shape, np.nan if dtype is np.float32 else -1, dtype))

    ids, n, how = random.integers(p.V, size=(p.T + 1, p.B)), p.T * p.B, native.Draw(*p.how)
    state = draw("state", p.layers, p.B, p.H)
    call("step", p.B, p.threads, place("ids", ids[0]), state=state, logits=blank("logits", p.B, p.V))
    state, outputs = draw("state", p.layers, p.B, p.H), blank("outputs", p.T, p.B, p.H)
    call("read", p.T, p.B, p.threads, place("ids", ids[1:]), state=state, outputs=outputs)
    call("logits", n, p.threads, outputs, logits=blank("logits", n, p.V))
    forbidden, seen = (random.random((2, p.V)) < 0.3).astype(np.uint8)
    forbidden[0] = 0
    call(
        "generate", ctypes.addressof(how), n, p.threads, place("uniform", random.random(n)),
        place("forbidden", forbidden), seen=place("seen", seen), logits=draw("logits", p.V),
        state=draw("state", p.layers, 1, p.H), ids=blank("ids", n, dtype=np.int64),
    )  # fmt: skip
    return results


def awkward_models() -> Iterator[ModelProblem]:
    choice, yes_or_no = random.Random(1).choice, (False, True)
    for H, precision, before in itertools.product((*range(1, 36), 130), native.PRECISIONS, yes_or_no):
        how = choice((1.0, 1.3)), choice((0.0, 0.8)), choice((1.0, 0.7)), choice((0.0, 0.1)), choice((0, 1, 4))
        yield ModelProblem(
            choice((0, 1, 2, 5)), choice((1, 2, 3, 17)), choice((1, 2, 3, 7, 8, 9, 15, 16, 17, 33)),
            choice((0, 1, 5, 16, 35)), H, choice((1, 2, 3)), before, precision, how, choice((1, 2)),
        )  # fmt: skip


AWKWARD: dict[str, tuple[Callable[[], Iterator[Any]], Callable[..., dict[str, Array]]]] = {
    "gru": (awkward_problems, run),
    "head": (awkward_heads, run_head),
    "model": (awkward_models, run_model),
}


def check_red_zones(level: int, of: str) -> None:
    """Print each problem before it runs, so that the last one printed is the one that crashed."""
    assert native.load().headgate_use_level(level) == 0
    places = {"at the end": Guarded(True), "at the start": Guarded(False)}
    digests = hashlib.sha256()
    problems, run = AWKWARD[of]
    for problem in problems():
        print(native.LEVELS[level], problem)
        expected = run(problem)
        digests.update(digest(expected).encode())
        for where, place in places.items():
            print(where, flush=True)
            assert_same_bits(run(problem, place), expected, problem)
    print(digests.hexdigest())


def check_red_zones_of_functions(level: int) -> None:
    assert native.load().headgate_use_level(level) == 0
    for at_end, dtype, name in itertools.product((True, False), SUFFIXES, ("sigmoid", "tanh")):
        place = Guarded(at_end)
        for n in range(1, 68):
            print(name, dtype, n, at_end, flush=True)
            x = np.linspace(-5, 5, n).astype(dtype)
            assert apply(name, place("x", x), place("y", x)).tobytes() == apply(name, x).tobytes()


@pytest.mark.parametrize("of", AWKWARD)
def test_no_access_outside_of_arrays(of: str, level: int) -> None:
    """No result depends on what fresh memory holds either."""
    code = f"here.check_red_zones({level}, {of!r})"
    digests = {python(code, MALLOC_PERTURB_=fill).split()[-1] for fill in ("0", "165")}
    assert len(digests) == 1


def test_activations_access_nothing_outside_of_arrays(level: int) -> None:
    python(f"here.check_red_zones_of_functions({level})")


def test_each_optional_array_may_be_null(level: int) -> None:
    """Without one gradient, the others are the same to the bit; an omitted input counts as zeros."""
    for before, ids in itertools.product((False, True), repeat=2):
        problem = Problem(70, 17, 5, 11, before, ids=ids, lengths=True, resets=True)
        expected = run(problem)
        for name in expected:
            if name == "gates":
                results = run(problem, without=tuple(n for n in expected if n not in ("states", "last")))
            elif name in ("states", "last"):
                continue
            else:
                results = run(problem, without=(name,))
            assert_same_bits(results, expected, (name, problem))

        def zeros(name: str, array: Array, left_out: str = "") -> Array:
            return np.zeros_like(array) if name == left_out else array.copy()

        for name in ("d_states", "d_last", "d_gates", "bias_ih", "bias_hh", "reset_state"):
            expected = run(problem, functools.partial(zeros, left_out=name))
            assert_same_bits(run(problem, without=(name,)), expected, (name, problem))


# --- accuracy ---------------------------------------------------------------------------------------------------------


@functools.cache
def errors_of_torch(T: int, H: int, seed: int, ids: bool) -> tuple[dict[str, Any], dict[str, Any], dict[str, float]]:
    """Return arguments, the values of the float64 definition, and the errors of torch.nn.GRU in float32."""
    import torch

    from headgate import equations

    torch.manual_seed(seed)
    B, I = (32, 28) if ids else (3, 7)  # noqa: E741
    layer = torch.nn.GRU(I, H)
    x = torch.randint(I, (T, B)) ** 2 // I if ids else torch.randn(T, B, I)  # some ids are frequent
    weights = dict(zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), layer.parameters(), strict=True))
    values = {"x": x, "h0": torch.randn(B, H), **weights}

    def of_torch(x: Any, h0: Any, **weights: Any) -> tuple[Any, Any]:
        named = {f"{k}_l0": v for k, v in weights.items()}
        vectors = torch.nn.functional.one_hot(x, I).float() if ids else x
        states, last = torch.func.functional_call(layer, named, (vectors, h0[None]))
        return states, last[0]

    from tests.helpers.definition import unbundled

    expected = outputs_and_gradients(unbundled(equations.sequence), values, torch.float64)
    return values, expected, errors(outputs_and_gradients(of_torch, values, torch.float32), expected)


def outputs_and_gradients(function: Callable[..., Any], values: dict[str, Any], dtype: Any) -> dict[str, Any]:
    import torch

    ready = {k: v.detach().to(dtype).requires_grad_() if v.is_floating_point() else v for k, v in values.items()}
    states, last = function(**ready)
    weight = torch.linspace(-1, 1, states.numel(), dtype=torch.float64).to(dtype).view(states.shape)
    scalar = (states * weight).sum() + last.square().sum()
    leaves = {k: v for k, v in ready.items() if v.requires_grad}
    gradients = torch.autograd.grad(scalar, list(leaves.values()))
    return {"states": states.detach(), "last": last.detach(), **dict(zip(leaves, gradients, strict=True))}


def errors(found: dict[str, Any], expected: dict[str, Any]) -> dict[str, float]:
    """Return each tensor's largest error, relative to its largest number."""
    return {k: float((found[k].double() - v).abs().max() / v.abs().max()) for k, v in expected.items()}


@pytest.mark.parametrize(
    ("T", "H", "ids"),
    [
        *itertools.product((1, 35, 200), (8, 64, 200), (False,)),
        *(pytest.param(1000, H, False, marks=pytest.mark.slow) for H in (8, 64, 200)),
        (35, 64, True),
        (300, 64, True),
        (35, 200, True),
        pytest.param(300, 200, True, marks=pytest.mark.slow),
    ],
)
def test_as_accurate_as_torch(T: int, H: int, ids: bool, level: int) -> None:
    import torch

    from headgate.layers.functional import gru

    ours_of = functools.partial(gru, backend="native", batch_invariant=not ids)  # with ids, in batches that use tiles
    largest: dict[str, list[float]] = {}
    for seed in range(3):
        values, expected, of_torch = errors_of_torch(T, H, seed, ids)
        ours = outputs_and_gradients(ours_of, values, torch.float32)
        for name, error in errors(ours, expected).items():
            so_far = largest.setdefault(name, [0.0, 0.0])
            largest[name] = [max(so_far[0], error), max(so_far[1], of_torch[name])]
    for name, (error, of_torch) in largest.items():
        limit = 2 * max(of_torch, 4 * 2.0**-23)  # if both are tiny, their ratio is random
        assert error <= limit, f"{name}: error {error:.1e}, of torch.nn.GRU {of_torch:.1e}"


# More than a group of 128 rows, 1,024 terms (3H) or a chunk of 512 tokens, each with a remainder.
ON_TILES = [
    Problem(3, 35, 33, 128),
    Problem(2, 150, 40, 352, lengths=True),
    Problem(2, 150, 40, 352, before=True, resets=True),
    Problem(2, 32, 700, 161, reverse=True, resets=True),
    Problem(40, 47, 5, 130, lengths=True, resets=True),
    Problem(40, 47, 5, 130, before=True, ids=True, lengths=True),
    Problem(7, 64, 64, 256, strided=True),
]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("problem", ON_TILES, ids=repr)
def test_rows_on_tiles_match_float64(problem: Problem, threads: int, level: int) -> None:
    """Values and gradients that need not be invariant, compared with float64."""
    on_tiles = dataclasses.replace(problem, threads=threads, invariant=False)
    results, expected = run(on_tiles), run(dataclasses.replace(on_tiles, dtype="float64"))
    for name, value in expected.items():
        assert abs(results[name] - value).max() <= 4e-6 * abs(value).max(), name


def test_infinite_rows_on_tiles_do_not_affect_others(level: int) -> None:
    """Infinite and huge numbers and NaN give the same gates as without tiles, and other rows are unaffected."""
    import torch

    from headgate.layers.functional import gru

    T, B, I, H = 2, 40, 30, 128  # noqa: E741
    torch.manual_seed(0)
    x, h0 = torch.randn(T, B, I), torch.randn(B, H)
    x[0, 3, 4], x[1, 17, 29], x[1, 20, 0], x[0, 39, 1], h0[8, 5] = torch.inf, -torch.inf, torch.nan, 3.4e38, torch.inf
    weights = torch.randn(3 * H, I), torch.randn(3 * H, H) / H**0.5
    states, expected = (gru(x, h0, *weights, backend="native", batch_invariant=b)[0] for b in (False, True))
    assert torch.allclose(states, expected, rtol=1e-5, atol=1e-5, equal_nan=True)
    assert states.isnan().any()
    assert states[:, [3, 17, 39]].isfinite().all()


def rounded(weight: Array, precision: str) -> Array:
    """Round a weight as a model does: to the upper half of each float, or to multiples of its row's step."""
    if precision == "bfloat16":
        bits = weight.view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    step = abs(weight).max(1, keepdims=True) / np.float32(127)
    return np.rint(weight / step) * step


@pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
@pytest.mark.parametrize("precision", native.PRECISIONS[1:])
def test_weights_in_fewer_bits_are_rounded_by_row(precision: str, before: bool, level: int) -> None:
    """The rows, of different magnitudes, fill several vectors of every instruction set."""
    random = np.random.default_rng(1)
    V, E, H, B = 70, 5, 37, 3

    def draw(rows: int, columns: int) -> Array:
        sizes = np.exp(random.standard_normal((rows, 1)))
        return (random.standard_normal((rows, columns)) * sizes / columns**0.5).astype(np.float32)

    matrices, biases = [draw(3 * H, E), draw(3 * H, H), draw(V, H)], [draw(3 * H, 1)[:, 0] for _ in range(2)]
    embedding, bias, ids = draw(V, E), draw(V, 1)[:, 0], random.integers(V, size=B)

    def step(matrices: list[Array], precision: str) -> tuple[Array, Array]:
        weight_ih, weight_hh, head = matrices
        layers, reset = [(weight_ih, weight_hh, *biases)], "before" if before else "after"
        model = NativeModel(embedding, layers, (head, bias), reset=reset, threads=1, precision=precision)
        return model.step(ids, state)

    state = random.standard_normal((1, B, H)).astype(np.float32) / 2
    results, exact = step(matrices, precision), step(matrices, "float32")
    expected = step([rounded(m, precision) for m in matrices], "float32")
    for value, other, unrounded in zip(results, expected, exact, strict=True):
        assert abs(value - other).max() < 2e-5 < abs(value - unrounded).max()


# --- threads ----------------------------------------------------------------------------------------------------------

# Both kinds of parallelism: threads share the rows if each has at least 8, and otherwise, or with large weights, the
# hidden units, 2 vectors per thread. More than chunk_tokens (native/sequence.h) tokens make several chunks of backward,
# more than 64 several groups of steps. Results that need not be invariant are computed by rows on tiles.
SHARED = [
    Problem(30, 47, 5, 37, lengths=True, resets=True),
    Problem(30, 47, 5, 37, before=True, ids=True),
    Problem(9, 3, 6, 170, resets=True),
    Problem(9, 3, 6, 170, before=True, reverse=True, lengths=True),
    Problem(9, 3, 6, 90, before=True, dtype="float64"),
    Problem(520, 3, 4, 165, ids=True, reverse=True),
    Problem(4, 3, 90, 165, ids=True),
    Problem(2, 19, 7, 430),
    Problem(200, 3, 90, 165),
    Problem(5, 70, 40, 300, before=True, dtype="float64"),
    Problem(9, 35, 40, 130, resets=True, invariant=False),
    Problem(2, 150, 33, 352, before=True, lengths=True, invariant=False),
    Problem(20, 40, 9, 141, ids=True, reverse=True, lengths=True, resets=True, invariant=False),
]
THREADS = (1, 2, 3, 5)


def with_threads(problem: Problem, threads: int) -> Problem:
    return dataclasses.replace(problem, threads=threads)


def print_digests(level: int) -> None:
    assert native.load().headgate_use_level(level) == 0
    for problem in SHARED:
        print(digest(run(problem)))
        for threads in THREADS:
            assert_same_bits(run(with_threads(problem, threads)), run(problem), with_threads(problem, threads))


def test_same_bits_in_every_run_with_any_number_of_threads(level: int) -> None:
    for problem in SHARED:
        expected = run(problem)
        for threads in THREADS * 3:
            assert_same_bits(run(with_threads(problem, threads)), expected, with_threads(problem, threads))


@pytest.mark.skipif(len(levels()) < 3, reason="needs AVX2 and AVX-512")
def test_same_bits_with_vectors_of_any_width() -> None:
    """All instruction sets with fused multiply-add chain it in the same order."""
    library, best = native.load(), native.load().headgate_level()
    for problem in SHARED:
        results = []
        for name in ("AVX2", "AVX-512"):
            assert library.headgate_use_level(native.LEVELS.index(name)) == 0
            results.append(run(problem))
        library.headgate_use_level(best)
        assert_same_bits(*results, problem)


def test_same_bits_with_and_without_torch(level: int) -> None:
    """Without torch no OpenMP runtime is loaded, and the library uses its own threads."""
    assert "torch" in sys.modules
    digests = python(f"here.print_digests({level})\nassert 'torch' not in here.sys.modules").split()
    assert digests == [digest(run(problem)) for problem in SHARED]


def call_from_several_threads() -> None:
    expected = [run(problem) for problem in SHARED]
    failures: list[BaseException] = []

    def call(index: int) -> None:
        try:
            for i in range(4 * len(SHARED)):
                at, threads = (index + i) % len(SHARED), THREADS[(index + i // 2) % len(THREADS)]
                assert_same_bits(run(with_threads(SHARED[at], threads)), expected[at], SHARED[at])
        except BaseException as error:
            failures.append(error)

    callers = [threading.Thread(target=call, args=(index,)) for index in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    if failures:
        raise failures[0]


@pytest.mark.parametrize("imports", ["", "import torch"], ids=["own threads", "OpenMP"])
def test_several_threads_may_call_the_library(imports: str) -> None:
    python(f"{imports}\nhere.call_from_several_threads()")


def call_in_a_fork() -> None:
    """Use the library with threads before a fork, and again in the child."""
    problem = with_threads(SHARED[0], 2)
    expected = run(problem)
    child = os.fork()
    if child == 0:
        os._exit(any(digest(run(with_threads(problem, n))) != digest(expected) for n in (2, 3, 2)))
    end = time.monotonic() + 30
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            raise SystemExit("the child hangs")
        time.sleep(0.01)
    assert ended[1] == 0, f"status of the child: {ended[1]}"
    assert_same_bits(run(problem), expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("imports", ["", "import torch"], ids=["own threads", "OpenMP"])
def test_a_forked_process_may_call_the_library(imports: str) -> None:
    python(f"{imports}\nhere.call_in_a_fork()")


# --- loading ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Iterator[Path]:
    """Return an empty folder in which the library is searched."""
    import headgate

    monkeypatch.setattr(headgate, "__path__", [str(tmp_path)])
    native.load.cache_clear()
    yield tmp_path
    native.load.cache_clear()


def test_a_missing_library_is_none(folder: Path) -> None:
    assert native.find() is None
    assert native.load() is None


def test_a_file_that_is_not_a_library_is_an_error(folder: Path) -> None:
    path = folder / native._FILE
    path.write_text("not a library")
    with pytest.raises(RuntimeError, match=rf"{re.escape(str(path))} does not load \(.*\): reinstall headgate"):
        native.load()


def compiled(path: Path, code: str) -> None:
    """Compile C++ into a library; skip the test if there is no compiler."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    source = path.with_suffix(".cpp")
    source.write_text(code)
    without = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}  # of `make sanitize`
    subprocess.run([compiler, "-shared", "-fPIC", source, "-o", path], check=True, env=without)


def test_a_library_without_a_version_is_an_error(folder: Path) -> None:
    path = folder / native._FILE
    compiled(path, 'extern "C" int something_else() { return 1; }')
    with pytest.raises(RuntimeError, match=rf"{re.escape(str(path))} does not load \(.*headgate_version"):
        native.load()


def test_a_library_of_another_version_is_an_error(folder: Path) -> None:
    path, other = folder / native._FILE, native.CONTRACT + 1
    compiled(path, f'extern "C" int headgate_version() {{ return {other}; }}')
    message = f"{path} has contract {other}, this headgate needs {native.CONTRACT}: reinstall headgate"
    with pytest.raises(RuntimeError, match=re.escape(message)):
        native.load()


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="needs the size of the address space")
def test_too_little_address_space_is_a_memory_error() -> None:
    """Reinstalling, the remedy for other files that do not load, would not help."""
    code = """
import resource
from headgate import native
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, ((pages + 64) * resource.getpagesize(), resource.RLIM_INFINITY))
try:
    native.load()
except MemoryError as error:
    print(error)
"""
    without = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}  # of `make sanitize`
    without.pop("PYTHONPATH", None)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=without)
    assert done.stdout.startswith("not enough memory to load "), done.stderr
    assert done.stdout.endswith("raise the limit of the address space (ulimit -v)\n")


def header_fields(structure: str) -> list[str]:
    header = re.sub(r"/\*.*?\*/", "", (ROOT / "native/headgate.h").read_text(), flags=re.DOTALL)
    body = next(b for b in header.split("typedef struct {")[1:] if re.search(rf"}}\s*{structure};", b)).split("}")[0]
    return re.findall(r"(\w+)[,;]", body)


@pytest.mark.parametrize(
    ("name", "structure"), [("headgate_gru", native.Gru), ("headgate_gru_gradients", native.Gradients)]
)
def test_structures_are_those_of_the_header(name: str, structure: type[ctypes.Structure]) -> None:
    assert header_fields(name) == [field[0] for field in structure._fields_]
    version = re.search(r"#define HEADGATE_VERSION (\d+)", (ROOT / "native/headgate.h").read_text())
    assert version is not None
    assert int(version[1]) == native.CONTRACT


@pytest.mark.skipif(native.load() is None, reason="the library was not built")
def test_the_best_level_is_used_and_unknown_ones_are_refused() -> None:
    library, best = native.load(), native.load().headgate_level()
    assert native.level() == native.LEVELS[best]
    assert best == max(levels())
    for unknown in (-1, len(native.LEVELS), 1000):
        assert library.headgate_use_level(unknown) == 2
    assert library.headgate_level() == best
