"""Calls under tracers: torch.jit.trace, make_fx, ONNX, modes, batched gradients, tensor subclasses.

None of them sees what the native library writes through pointers. Each must give the numbers of the definition in
float64, or raise an error; recorded programs are run on other inputs than those they were recorded with.
"""

import collections
import functools
import io
import itertools
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils._per_sample_grad import call_for_per_sample_grads
from torch.overrides import TorchFunctionMode
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from torch.utils.flop_counter import FlopCounterMode

from headgate import GRU
from headgate.kernels import native_gru
from headgate.layers.cell import GRUCell
from headgate.layers.functional import gru, linear_cross_entropy, reason_against_native
from tests.helpers.definition import unbundled

T, B, I, H, V = 5, 3, 4, 6, 7  # noqa: E741

pytestmark = [
    pytest.mark.skipif(bool(reason_against_native()), reason="the compiled library is missing"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated:DeprecationWarning"),
]

KINDS: dict[str, dict[str, Any]] = {
    "after": {},
    "before": {"reset": "before"},
    "two layers, both directions": {"num_layers": 2, "bidirectional": True},
    "single bias, learned state": {"bias": "single", "learned_state": True},
}
kinds = pytest.mark.parametrize("kind", KINDS)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def make(kind: str, **options: Any) -> GRU:
    layer = GRU(I, H, **KINDS[kind], **options).double()
    for name, parameter in layer.named_parameters():
        if name.startswith("state"):
            nn.init.normal_(parameter)
    return layer


def defined(layer: Any, *inputs: Any, **options: Any) -> Any:
    """Call a module with the backend that is the definition, on the same parameters."""
    backend, layer.backend = layer.backend, "equations"
    try:
        return layer(*inputs, **options)
    finally:
        layer.backend = backend


def flat(outputs: Any) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(itertools.chain(*map(flat, outputs)))


def scalar(outputs: Any) -> Tensor:
    return sum((v * torch.linspace(-1, 2, v.numel(), dtype=v.dtype).view(v.shape)).sum() for v in flat(outputs))


def compare(check: Callable[..., None], actual: Any, expected: Any, tolerance: float = 1e-12) -> None:
    for i, (value, other) in enumerate(zip(flat(actual), flat(expected), strict=True)):
        check(f"{i}", value.detach(), other.detach(), tolerance)


def saved_and_loaded(traced: Any) -> Any:
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    return torch.jit.load(file)


# torch.jit.trace


@kinds
@pytest.mark.parametrize("check_trace", [False, True], ids=["", "checked"])
@pytest.mark.parametrize("gradients", [False, True], ids=["no_grad", "gradients"])
def test_jit_trace(assert_close, gradients: bool, check_trace: bool, kind: str) -> None:
    layer = make(kind)
    with torch.set_grad_enabled(gradients):
        traced = torch.jit.trace(layer, draw(T, B, I), check_trace=check_trace)
    for program, (t, b) in itertools.product((traced, saved_and_loaded(traced)), ((T, B), (T, 7), (9, B), (2, B))):
        x = draw(t, b, I).requires_grad_()
        if kind == "before" and t != T:  # torch has no operation for it that takes any number of steps
            with pytest.raises(RuntimeError, match=f"Expected {T} elements in a list but found {t}"):
                program(x)
            continue
        expected = defined(layer, x)
        actual = program(x)
        compare(assert_close, actual, expected)
        compare(assert_close, *(torch.autograd.grad(scalar(v), x) for v in (actual, expected)))


@kinds
@pytest.mark.parametrize("what", ["lengths", "resets", "gates", "ids", "hx"])
def test_jit_trace_of_extensions(assert_close, what: str, kind: str) -> None:
    layer = make(kind)
    layers = layer.num_layers * (1 + layer.bidirectional)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = layer

        def forward(self, x: Tensor, other: Tensor) -> Any:
            options: dict[str, Any] = {what: other} if what in ("lengths", "resets", "hx") else {}
            return flat(self.gru(x, **options, return_gates=what == "gates"))

    def inputs(b: int) -> tuple[Tensor, Tensor]:
        other = {
            "lengths": torch.randint(T + 1, (b,)),
            "resets": torch.rand(T, b) < 0.4,
            "hx": draw(layers, b, H),
        }
        return torch.randint(I, (T, b)) if what == "ids" else draw(T, b, I), other.get(what, torch.zeros(1))

    model = Model()
    program = saved_and_loaded(torch.jit.trace(model, inputs(B), check_trace=False))
    for b in (B, 8):
        x, other = inputs(b)
        layer.backend = "equations"
        expected = model(x, other)
        layer.backend = "auto"
        compare(assert_close, program(x, other), expected)
    with pytest.raises((RuntimeError, torch.jit.Error)) if what != "hx" or kind == "before" else nullcontext():
        program(torch.cat([x, x]), other)


def test_jit_trace_of_a_cell_and_a_function(assert_close) -> None:
    for reset in ("after", "before"):
        cell, layer = GRUCell(I, H, reset=reset).double(), make("after", reset=reset) if reset == "after" else None
        program = saved_and_loaded(torch.jit.trace(cell, (draw(B, I), draw(B, H))))
        x, h = draw(8, I), draw(8, H)
        compare(assert_close, program(x, h), defined(cell, x, h))
        if layer is not None:
            weights = [v.detach() for v in layer.all_weights[0]]
            program = torch.jit.trace(lambda x, h, *weights: gru(x, h, *weights), (draw(T, B, I), draw(B, H), *weights))
            x = draw(9, 8, I)
            compare(assert_close, program(x, h, *weights), gru(x, h, *weights, backend="equations"))


def test_jit_trace_of_the_head(assert_close) -> None:
    weight, bias = draw(V, H), draw(V)
    for reduction in ("mean", "none"):

        def loss(states: Tensor, targets: Tensor, reduction: str = reduction) -> Tensor:
            return linear_cross_entropy(states, weight, bias, targets, reduction=reduction)

        with torch.no_grad():
            program = torch.jit.trace(loss, (draw(T, H), torch.randint(V, (T,))))
        states, targets = draw(11, H), torch.randint(V, (11,))
        expected = nn.functional.cross_entropy(states @ weight.T + bias, targets, reduction=reduction)
        compare(assert_close, program(states, targets), expected)


def test_backend_native_refuses_to_be_recorded() -> None:
    layer = make("after", backend="native")
    with pytest.raises(
        RuntimeError, match=r'"native" cannot run: torch.jit.trace .* records the call, .*backend="auto"'
    ):
        torch.jit.trace(layer, draw(T, B, I))
    arguments = draw(T, H), draw(V, H), draw(V), torch.randint(V, (T,))
    with pytest.raises(
        RuntimeError, match=r'"native" cannot run: torch.jit.trace .* records the call, .*backend="auto"'
    ):
        torch.jit.trace(lambda *v: linear_cross_entropy(*v, backend="native"), arguments)
    with FlopCounterMode(display=False), pytest.raises(RuntimeError, match=r'a mode or .* follows .* backend="auto"'):
        linear_cross_entropy(*arguments, backend="native")
    with pytest.raises(RuntimeError, match=r'class that implements torch\'s operators itself.*take backend="auto"'):
        layer(TwoTensor(draw(T, B, I), draw(T, B, I)))
    assert linear_cross_entropy(*arguments, backend="native").isfinite()


# ONNX


@pytest.mark.slow
@pytest.mark.parametrize("dynamo", [False, True], ids=["legacy", "dynamo"])
@kinds
@pytest.mark.parametrize("with_lengths", [False, True], ids=["", "lengths"])
def test_onnx(assert_close, tmp_path: Path, with_lengths: bool, kind: str, dynamo: bool) -> None:
    """Run the exported file, because PyTorch's exporter has written GRUs of the wrong variant."""
    pytest.importorskip("onnx", reason="onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    layer = make(kind).float().eval()

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = layer

        def forward(self, x: Tensor, lengths: Tensor) -> Any:
            return self.gru(x, lengths=lengths) if with_lengths else self.gru(x + 0 * lengths[:, None])

    inputs = torch.randn(T, B, I), torch.tensor([5, 0, 2])
    options: dict[str, Any] = {"dynamic_axes": {"x": {1: "batch"}, "lengths": {0: "batch"}}}
    if dynamo:
        batch = torch.export.Dim("batch", min=2, max=100)
        options = {"dynamic_shapes": ({1: batch}, {0: batch}), "verbose": False}
    path = tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Model(), inputs, str(path), dynamo=dynamo, input_names=["x", "lengths"], **options)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for b in (B, 8):
        x, lengths = torch.randn(T, b, I), torch.arange(b) % (T + 1)
        actual = session.run(None, {"x": x.numpy(), "lengths": lengths.numpy()})
        expected = defined(layer.double(), x.double(), lengths=lengths if with_lengths else None)
        layer.float()
        compare(assert_close, [torch.from_numpy(v) for v in actual], expected, 1e-6)


# make_fx


@kinds
@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_make_fx(assert_close, mode: str, kind: str) -> None:
    layer, x = make(kind), draw(T, B, I)
    program = make_fx(lambda x: layer(x), tracing_mode=mode, _allow_non_fake_inputs=True)(x)
    for t, b in ((T, B), (9, 8), (1, B)) if mode == "symbolic" else ((T, B),):
        x = draw(t, b, I)
        compare(assert_close, program(x), defined(layer, x))


@kinds
@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_make_fx_with_gradients(assert_close, mode: str, kind: str) -> None:
    layer = make(kind)

    def gradients(x: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(scalar(layer(x)), [x, *layer.parameters()])

    program = make_fx(gradients, tracing_mode=mode, _allow_non_fake_inputs=True)(draw(T, B, I).requires_grad_())
    x = draw(T, B, I).requires_grad_()
    compare(assert_close, program(x), torch.autograd.grad(scalar(defined(layer, x)), [x, *layer.parameters()]))


def test_make_fx_with_ids_and_lengths(assert_close) -> None:
    """Values that are unknown during recording are checked when the program runs."""
    layer = make("after")
    program = make_fx(lambda x, lengths: layer(x, lengths=lengths))(torch.randint(I, (T, B)), torch.tensor([5, 0, 2]))
    ids, lengths = torch.randint(I, (T, B)), torch.tensor([1, 5, 3])
    compare(assert_close, program(ids, lengths), defined(layer, ids, lengths=lengths))
    with pytest.raises(RuntimeError, match="ids must be from 0 to 3, got 4 to 4"):
        program(torch.full((T, B), 4), lengths)
    with pytest.raises(RuntimeError, match="lengths must be from 0 to 5, got 1 to 6"):
        program(ids, torch.tensor([1, 6, 3]))


def test_a_program_for_one_batch_size_refuses_another() -> None:
    layer = make("after")
    program = make_fx(lambda x: layer(x))(draw(T, B, I))
    with pytest.raises(RuntimeError, match=r"headgate::gru: h0 must be \(8, 6\), got \(3, 6\): a program recorded"):
        program(draw(T, 8, I))


def test_make_fx_of_backward_alone(assert_close) -> None:
    layer, x = make("two layers, both directions"), draw(T, B, I).requires_grad_()
    states, _ = layer(x)
    leaves = [x, *layer.parameters()]
    program = make_fx(lambda d: torch.autograd.grad(states, leaves, d, retain_graph=True))(draw(*states.shape))
    d = draw(*states.shape)
    compare(assert_close, program(d), torch.autograd.grad(defined(layer, x)[0], leaves, d))


@pytest.mark.parametrize("mode", ["real", "fake"])
def test_make_fx_of_the_head(assert_close, mode: str) -> None:
    targets = torch.randint(V, (T,))

    def gradients(*values: Tensor) -> tuple[Tensor, ...]:
        loss = linear_cross_entropy(*values, targets)
        return loss, *torch.autograd.grad(loss, values)

    inputs = [[draw(*shape).requires_grad_() for shape in ((T, H), (V, H), (V,))] for _ in range(2)]
    program = make_fx(gradients, tracing_mode=mode, _allow_non_fake_inputs=True)(*inputs[0])
    compare(assert_close, program(*inputs[1]), gradients(*inputs[1]))


def test_make_fx_of_the_heads_backward(assert_close) -> None:
    states, targets = draw(T, H).requires_grad_(), torch.randint(V, (T,))
    loss = linear_cross_entropy(states, draw(V, H), draw(V), targets)
    once = torch.autograd.grad(loss, states, retain_graph=True)[0]
    one = torch.ones((), dtype=torch.float64)
    program = make_fx(lambda d: torch.autograd.grad(loss, states, d, retain_graph=True))(one)
    compare(assert_close, program(3 * one), 3 * once)


# modes


class Seen(TorchDispatchMode):
    """Records the operators called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names[str(func)] += 1
        return func(*args, **(kwargs or {}))


class Heard(TorchFunctionMode):
    """Records the functions called."""

    def __init__(self) -> None:
        super().__init__()
        self.functions: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.functions.append(func)
        return func(*args, **(kwargs or {}))


@kinds
def test_modes_see_the_operator(kind: str) -> None:
    """Modes see the operator and do not change a bit of its results."""
    layer, x = make(kind), draw(T, B, I).requires_grad_()
    calls = layer.num_layers * (1 + layer.bidirectional)
    expected = layer(x)
    d_expected = torch.autograd.grad(scalar(expected), [x, *layer.parameters()])
    for mode in (Seen(), Heard()):
        with mode:
            actual = layer(x)
            d_found = torch.autograd.grad(scalar(actual), [x, *layer.parameters()])
        assert all(map(torch.equal, (*actual, *d_found), (*expected, *d_expected)))
        if isinstance(mode, Seen):
            assert mode.names["headgate.gru.default"] == mode.names["headgate.gru_backward.default"] == calls
            assert mode.names["aten.empty.memory_format"] == 0
        else:
            assert mode.functions.count(torch.ops.headgate.gru.default) == calls


def test_a_default_device_does_not_count_as_a_mode() -> None:
    layer, x = (
        GRU(40, 130),
        torch.randn(40, 8, 40),
    )  # large: outputs come from the memory store, small gradients do not
    expected = [*layer(x), *torch.autograd.grad(layer(x)[0].sum(), [*layer.parameters()])]
    with torch.device("meta"):
        actual = [*layer(x), *torch.autograd.grad(layer(x)[0].sum(), [*layer.parameters()])]
        assert layer(x)[0].grad_fn is not None
        assert "_Gru" in type(gru(x, torch.zeros(8, 130, device="cpu"), *layer.all_weights[0])[0].grad_fn).__name__
        small = GRU(2, 3, device="cpu")(torch.zeros(1, 1, 2, device="cpu"))[0]
    assert small.device.type == "cpu"
    assert all(map(torch.equal, actual, expected))


def flops(call: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False}], ids=str)
@pytest.mark.parametrize("differentiated", ["weights", "weights and input", "input and h0"])
def test_flops_equal_those_of_torch(differentiated: str, options: dict[str, Any]) -> None:
    result = []
    for module in (GRU(I, H, **options), nn.GRU(I, H, **options)):
        module.requires_grad_("weights" in differentiated)
        x = torch.randn(T, B, I, requires_grad="input" in differentiated)
        layers = module.num_layers * (1 + module.bidirectional)
        h0 = torch.randn(layers, B, H, requires_grad="h0" in differentiated)
        result.append(
            (
                flops(lambda m=module, x=x, h0=h0: m(x, h0)),
                flops(lambda m=module, x=x, h0=h0: m(x, h0)[0].sum().backward()),
            )
        )
        states = module(x, h0)[0].sum()
        result[-1] += (flops(lambda states=states: states.backward()),)
    assert result[0] == result[1]
    assert result[0][0] > 0


def test_flops_of_ids_are_those_of_the_recurrence() -> None:
    layer = GRU(I, H)
    assert flops(lambda: layer(torch.zeros(T, B, dtype=torch.int64))) == 2 * T * B * 3 * H * H


@kinds
def test_fake_tensors(kind: str) -> None:
    with FakeTensorMode():
        layer = GRU(I, H, **KINDS[kind])
        states, last = layer(torch.randn(1000, B, I), lengths=torch.randint(5, (B,)))
        states.sum().backward()
        assert linear_cross_entropy(torch.randn(T, H), torch.randn(V, H), None, torch.randint(V, (T,))).shape == ()
    assert states.shape == (1000, B, H * (1 + layer.bidirectional))
    assert last.shape == (layer.num_layers * (1 + layer.bidirectional), B, H)
    assert all(p.grad is not None and p.grad.shape == p.shape for n, p in layer.named_parameters())


# tensors of other classes


class Named(Tensor):
    """A subclass without behaviour."""


class NamedParameter(nn.Parameter):
    """A parameter subclass without behaviour."""


@kinds
@pytest.mark.parametrize("which", ["x", "hx", "weight", "parameter", "lengths"])
def test_subclasses(assert_close, which: str, kind: str) -> None:
    layer, x, lengths = make(kind), draw(T, B, I), torch.tensor([5, 0, 2])
    h0 = draw(layer.num_layers * (1 + layer.bidirectional), B, H)
    expected = defined(layer, x, h0, lengths=lengths)
    weight = layer.weight_hh_l0
    if which == "x":
        x = x.as_subclass(Named)
    elif which == "hx":
        h0 = h0.as_subclass(Named)
    elif which == "lengths":
        lengths = lengths.as_subclass(Named)
    elif which == "weight":
        del layer.weight_hh_l0
        layer.weight_hh_l0 = weight.detach().as_subclass(Named)
    else:
        layer.weight_hh_l0 = NamedParameter(weight.detach())
    actual = layer(x, h0, lengths=lengths)
    compare(assert_close, [v.as_subclass(Tensor) for v in actual], expected)
    if which in ("x", "weight"):
        assert type(actual[0]) is Named


@kinds
def test_a_class_that_computes_operators_itself(assert_close, kind: str) -> None:
    layer, a, b = make(kind), draw(T, B, I), draw(T, B, I)
    states, _ = layer(TwoTensor(a, b))
    assert type(states) is TwoTensor
    compare(assert_close, (states.a, states.b), (defined(layer, a)[0], defined(layer, b)[0]))
    head = draw(V, layer.hidden_size * (1 + layer.bidirectional)), draw(V), torch.randint(V, (T * B,))
    loss = linear_cross_entropy(states.flatten(0, 1), *head)
    for part, x in ((loss.a, a), (loss.b, b)):
        compare(
            assert_close, part, linear_cross_entropy(defined(layer, x)[0].flatten(0, 1), *head, backend="equations")
        )


@pytest.mark.parametrize("reset", ["after", "before"])
def test_negative_views(assert_close, reset: str) -> None:
    """Tensors with the negative bit have the negatives of the numbers in memory."""
    numbers = torch.randn(4, 1, 1, dtype=torch.complex128)
    x, layer = numbers.conj().imag, GRU(1, 1, reset=reset).double()
    assert x.is_neg()
    compare(assert_close, layer(x), defined(layer, x.clone()))
    layer, x, h0 = make("after", reset=reset) if reset == "after" else make("before"), draw(T, B, I), draw(1, B, H)
    negative = torch._neg_view
    compare(assert_close, layer(negative(x), negative(h0)), defined(layer, -x, -h0))
    x.requires_grad_()
    states, d = layer(x)[0], draw(T, B, H)
    compare(assert_close, torch.autograd.grad(states, x, negative(d)), torch.autograd.grad(defined(layer, x)[0], x, -d))


@pytest.mark.parametrize("how", ["to_sparse", "to_mkldnn"])
def test_layouts_without_dense_memory_are_refused(how: str) -> None:
    with pytest.raises(RuntimeError):
        GRU(I, H)(getattr(torch.randn(T, B, I), how)())


# batched gradients

differentiable = pytest.mark.parametrize("backend", ["auto", "torch"])


@kinds
@differentiable
@pytest.mark.parametrize("ids", [False, True], ids=["dense", "ids"])
def test_is_grads_batched(assert_close, ids: bool, backend: str, kind: str) -> None:
    layer = make(kind, backend=backend)
    x = torch.randint(I, (T, B)) if ids else draw(T, B, I).requires_grad_()
    leaves = [*layer.parameters()] if ids else [x, *layer.parameters()]
    d = draw(7, *layer(x)[0].shape)
    result = torch.autograd.grad(layer(x)[0], leaves, d, is_grads_batched=True)
    each = [torch.autograd.grad(defined(layer, x)[0], leaves, part) for part in d]
    compare(assert_close, result, [torch.stack(parts) for parts in zip(*each, strict=True)])


@kinds
@differentiable
def test_vmap_of_a_gradient(assert_close, backend: str, kind: str) -> None:
    """The graph was created outside vmap."""
    layer, x = make(kind, backend=backend), draw(T, B, I).requires_grad_()
    leaves, states = [x, *layer.parameters()], layer(x)[0]
    d = draw(7, *states.shape)
    result = torch.vmap(lambda d: torch.autograd.grad(states, leaves, d, retain_graph=True))(d)
    each = [torch.autograd.grad(defined(layer, x)[0], leaves, part) for part in d]
    compare(assert_close, result, [torch.stack(parts) for parts in zip(*each, strict=True)])


@kinds
@differentiable
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_vectorized_jacobian_and_hessian(assert_close, backend: str, kind: str) -> None:
    layer, x = make(kind, backend=backend), draw(3, 2, I)
    of = torch.autograd.functional
    expected = of.jacobian(lambda x: defined(layer, x)[0], x)
    for strategy in ("reverse-mode", "forward-mode"):
        compare(assert_close, of.jacobian(lambda x: layer(x)[0], x, vectorize=True, strategy=strategy), expected)
    expected = of.hessian(lambda x: scalar(defined(layer, x)), x)
    compare(assert_close, of.hessian(lambda x: scalar(layer(x)), x, vectorize=True), expected)


@differentiable
@pytest.mark.parametrize("reset", ["after", "before"])
def test_gradcheck_with_batched_gradients(reset: str, backend: str) -> None:
    layer, x = GRU(2, 3, reset=reset, backend=backend).double(), draw(3, 2, 2).requires_grad_()
    assert torch.autograd.gradcheck(layer, x, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(layer, x, check_batched_grad=True)


def test_batched_gradients_of_the_head(assert_close) -> None:
    values, targets = [draw(*shape).requires_grad_() for shape in ((T, H), (V, H), (V,))], torch.randint(V, (T,))
    d, result = draw(4), []
    for backend in ("auto", "equations"):
        loss = linear_cross_entropy(*values, targets, backend=backend)
        result.append(torch.autograd.grad(loss, values, d, is_grads_batched=True, retain_graph=True))
    compare(assert_close, *result)
    loss = linear_cross_entropy(*values, targets)
    compare(assert_close, torch.vmap(lambda d: torch.autograd.grad(loss, values, d, retain_graph=True))(d), result[1])
    assert torch.autograd.gradgradcheck(lambda *v: linear_cross_entropy(*v, targets), values, check_batched_grad=True)


def test_double_backward_of_the_operator(assert_close) -> None:
    """A gradient penalty under a mode."""
    layer, x, results = make("two layers, both directions"), draw(T, B, I).requires_grad_(), []
    for mode in (Seen(), None):
        with mode or torch.enable_grad():
            states = (layer if mode else functools.partial(defined, layer))(x)[0]
            (dx,) = torch.autograd.grad(scalar(states), x, create_graph=True)
            results.append(torch.autograd.grad(dx.square().sum(), [x, *layer.parameters()], materialize_grads=True))
    compare(assert_close, *results, tolerance=1e-11)


@pytest.mark.parametrize("kind", ["after", "two layers, both directions"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_expanded_weights(assert_close, bias: bool, kind: str) -> None:
    """Per-sample gradients."""
    layer, x = make(kind, batch_first=True, bias=bias), draw(B, T, I)
    scalar(call_for_per_sample_grads(layer, loss_reduction="sum")(x)[0].unbind()).backward()
    scalars = [(v * torch.linspace(-1, 2, v.numel(), dtype=v.dtype).view(v.shape)).sum() for v in defined(layer, x)[0]]
    for b, each in enumerate(scalars):
        expected = torch.autograd.grad(each, list(layer.parameters()), retain_graph=True)
        compare(assert_close, [p.grad_sample[b] for p in layer.parameters()], expected)


@pytest.mark.parametrize("case", ["before", "single", "ids", "lengths"])
def test_expanded_weights_are_refused_if_unsupported(case: str) -> None:
    options = {"before": {"reset": "before"}, "single": {"bias": "single"}}.get(case, {})
    layer = GRU(I, H, batch_first=True, **options)
    x = torch.randint(I, (B, T)) if case == "ids" else torch.randn(B, T, I)
    extra = {"lengths": torch.tensor([5, 0, 2])} if case == "lengths" else {}
    with pytest.raises(RuntimeError, match=r"expanded weights .* dense input.* use torch.vmap\(torch.func.grad\("):
        call_for_per_sample_grads(layer, loss_reduction="sum", batch_size=B)(x, **extra)


# hooks of autograd


@kinds
def test_saved_tensors_in_another_layout(assert_close, kind: str) -> None:
    layer, x = make(kind), draw(T, B, I).requires_grad_()

    def otherwise(v: Tensor) -> Tensor:
        return v.transpose(0, -1).contiguous().transpose(0, -1) if v.dim() > 1 else v

    with torch.autograd.graph.saved_tensors_hooks(lambda v: v, otherwise):
        states = layer(x)[0]
    leaves = [x, *layer.parameters()]
    compare(assert_close, *(torch.autograd.grad(scalar(v), leaves) for v in (states, defined(layer, x)[0])))


@pytest.mark.parametrize("change", [lambda v: v.float(), lambda v: v[:1]], ids=["dtype", "shape"])
def test_saved_tensors_that_are_unpacked_as_others(change: Callable[[Tensor], Tensor]) -> None:
    layer, x = make("after"), draw(T, B, I)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda v: (kept.append(v), len(kept) - 1)[1], lambda i: change(kept[i]) if kept[i].dim() == 5 else kept[i]
    ):
        states = layer(x)[0]
    with pytest.raises(
        RuntimeError, match=r"kept for backward, .* hooks on saved tensors must return the tensor that was saved"
    ):
        states.sum().backward()


@pytest.mark.parametrize("way", ["reentrant", "not", "selective", "keeps the operator"])
def test_checkpoint(assert_close, way: str) -> None:
    layer, x = make("two layers, both directions"), draw(T, B, I).requires_grad_()
    options: dict[str, Any] = {"use_reentrant": way == "reentrant"}
    if way == "selective":
        policy = lambda *_, **__: CheckpointPolicy.PREFER_RECOMPUTE  # noqa: E731
        options["context_fn"] = functools.partial(create_selective_checkpoint_contexts, policy)
    elif way == "keeps the operator":
        kept = [torch.ops.headgate.gru.default]
        options["context_fn"] = functools.partial(create_selective_checkpoint_contexts, kept)
    scalar(checkpoint(lambda x: layer(x)[0], x, **options)).backward()
    actual, expected = [x.grad, *(p.grad for p in layer.parameters())], [x, *layer.parameters()]
    compare(assert_close, actual, torch.autograd.grad(scalar(defined(layer, x)[0]), expected))


def test_inference_mode(assert_close) -> None:
    layer, x = make("two layers, both directions"), draw(T, B, I)
    with torch.inference_mode():
        compare(assert_close, layer(x), defined(layer, x))


# torch.compile


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_fresh_compiler")
def test_a_compiled_program_checks_ids_when_it_runs() -> None:
    compiled = torch.compile(GRU(I, H), backend="eager")
    compiled(torch.randint(I, (T, B)))
    with pytest.raises(RuntimeError, match="ids must be from 0 to 3, got 4 to 4"):
        compiled(torch.full((T, B), 4))


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiled_backward(assert_close) -> None:
    """Compile the backward pass of an eager graph."""
    from torch._dynamo import compiled_autograd

    layer, x = make("after"), draw(T, B, I).requires_grad_()
    leaves, states = [x, *layer.parameters()], layer(x)[0]
    with compiled_autograd._enable(torch.compile(backend="eager")):
        result = torch.autograd.grad(scalar(states), leaves)
    compare(assert_close, result, torch.autograd.grad(scalar(defined(layer, x)[0]), leaves))


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("transform", ["vmap", "grad", "jvp"])
@pytest.mark.parametrize("inside", [True, False], ids=["inside", "outside"])
def test_compiled_transforms(assert_close, inside: bool, transform: str) -> None:
    """torch.compile of a transform, and a transform of a compiled module."""
    layer, x, dx = make("before"), draw(2, T, B, I), draw(2, T, B, I)

    def transformed(layer: Any) -> Any:
        if transform == "vmap":
            return torch.vmap(lambda x: layer(x)[0])(x)
        if transform == "grad":
            return torch.func.grad(lambda x: scalar(layer(x)[0]))(x)
        return torch.func.jvp(lambda x: layer(x)[0], (x[0],), (dx[0],))

    x = x if transform == "vmap" else x[0][None] if transform == "jvp" else x[0]
    expected = transformed(layer)
    if inside:
        actual = torch.compile(transformed, backend="eager")(layer)
    else:
        actual = transformed(torch.compile(layer, backend="eager"))
    compare(assert_close, actual, expected)


def test_an_exported_program_refuses_forward_mode(assert_close) -> None:
    """Torch would assume a tangent of zero for the operator."""
    layer, x = make("after"), draw(T, B, I)
    program = torch.export.export(layer, (x,), strict=False).module()
    compare(assert_close, program(x), layer(x))
    with pytest.raises(RuntimeError, match=r"headgate::gru cannot be differentiated in forward mode: call the module"):
        torch.func.jvp(lambda x: program(x)[0], (x,), (draw(T, B, I),))


@pytest.mark.parametrize(
    ("place", "wrong"),
    [(0, (T, B, I + 1)), (1, (B + 1, H)), (2, (3 * H - 1, I)), (3, (3 * H, H + 1)), (4, (3 * H + 1,)), (6, (H + 1,))],
)
def test_the_operator_checks_shapes(place: int, wrong: tuple[int, ...]) -> None:
    """It can be called directly, without earlier checks."""
    shapes = [(T, B, I), (B, H), (3 * H, I), (3 * H, H), (3 * H,), (3 * H,), (H,)]
    shapes[place] = wrong
    with pytest.raises(RuntimeError, match=r"headgate::gru: \w+ must be"):
        torch.ops.headgate.gru(*(draw(*s) for s in shapes), None, None, False, False, True, True)


# torch.fx and torch.jit.script


class Model(nn.Module):
    """A layer and a cell among other modules."""

    def __init__(self, kind: str = "after") -> None:
        super().__init__()
        self.gru, self.linear = make(kind), nn.Linear(H, I).double()
        self.cell = GRUCell(I, H).double()

    def forward(self, x: Tensor) -> Tensor:
        states, last = self.gru(x)
        return self.cell(self.linear(states[-1]), last[0])


def test_fx_takes_modules_as_leaves(assert_close) -> None:
    model = Model()
    program = torch.fx.symbolic_trace(model)
    assert [str(n.target) for n in program.graph.nodes if n.op == "call_module"] == ["gru", "linear", "cell"]
    x = draw(9, 8, I)
    compare(assert_close, program(x), model(x))


def test_fx_keeps_options(assert_close) -> None:
    layer = make("after")

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = layer

        def forward(self, x: Tensor, lengths: Tensor) -> Any:
            return self.gru(x, lengths=lengths, return_gates=True)

    x, lengths = draw(T, B, I), torch.tensor([5, 0, 2])
    result = torch.fx.symbolic_trace(Masked())(x, lengths)
    compare(assert_close, result, layer(x, lengths=lengths, return_gates=True))


def test_jit_script_compiles_what_torch_has(assert_close) -> None:
    model, x = Model(), draw(9, 8, I)
    scripted = saved_and_loaded(torch.jit.script(model))
    compare(assert_close, scripted(x), model(x))


@pytest.mark.parametrize("options", [{"reset": "before"}, {"bias": "single"}, {"learned_state": True}], ids=str)
def test_jit_script_names_what_it_cannot_compile(options: dict[str, Any]) -> None:
    for kind in (GRU, GRUCell) if "learned_state" not in options else (GRU,):
        with pytest.raises(
            RuntimeError, match=r'torch.jit.script compiles .* which has no reset="before".*: use torch'
        ):
            torch.jit.script(kind(I, H, **options))


def test_the_operator_has_the_gradients_of_the_backend(assert_close) -> None:
    """The operator that modes see has the gradients of the backend that they do not see."""
    values = [draw(*s).requires_grad_() for s in ((T, B, I), (B, H), (3 * H, I), (3 * H, H), (3 * H,), (3 * H,))]
    eager = unbundled(native_gru.sequence)(*values)
    with Seen():
        seen = unbundled(native_gru.sequence)(*values)
    assert all(map(torch.equal, eager, seen))
    assert all(map(torch.equal, *(torch.autograd.grad(scalar(v), values) for v in (eager, seen))))
