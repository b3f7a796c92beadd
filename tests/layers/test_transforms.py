"""GRU under torch.func, forward-mode and double differentiation, torch.compile, torch.export and torch.library.opcheck.

Each transform is compared with an equivalent without it: a loop for vmap, autograd for grad and jacrev, finite
differences for jvp, the eager module for compiled and exported ones.
"""

import copy
import itertools
import shutil
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from torch import Tensor, nn
from torch.autograd import forward_ad

from headgate import GRU, equations
from headgate.kernels import native_gru
from headgate.layers.cell import GRUCell
from headgate.layers.functional import reason_against_native
from tests.helpers.definition import unbundled

T, B, I, H, L = 5, 3, 4, 6, 2  # noqa: E741

needs_library = pytest.mark.skipif(bool(reason_against_native()), reason="the compiled library is missing")


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def make(**options: Any) -> GRU:
    """Return a GRU with two layers, both directions, and learned states other than zero."""
    gru = GRU(I, H, L, bidirectional=True, learned_state=True, **options).double()
    for name, parameter in gru.named_parameters():
        if name.startswith("state"):
            nn.init.normal_(parameter)
    return gru


def some(T: int, B: int) -> dict[str, Tensor]:
    """Return lengths and resets."""
    lengths, resets = torch.arange(B) * 7 % T + 1, torch.zeros(T, B, dtype=torch.bool)
    lengths[0], lengths[-1], resets[T // 2, ::2] = T, 0, True
    return {"lengths": lengths, "resets": resets}


def scalar(outputs: Any) -> Tensor:
    return sum((v * torch.linspace(-1, 2, v.numel(), dtype=v.dtype).view(v.shape)).sum() for v in outputs)


def compare(check: Callable[..., None], actual: Any, expected: Any, tolerance: float = 1e-12) -> None:
    for i, (value, other) in enumerate(zip(actual, expected, strict=True)):
        check(f"{i}", value.detach(), other.detach(), tolerance)


# torch.func

# torch loads its decompositions when forward mode is first used
forward_mode = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


@pytest.mark.parametrize("reset", ["after", "before"])
@pytest.mark.parametrize("axis", [0, 2])
def test_vmap_over_inputs(assert_close, axis: int, reset: str) -> None:
    N, gru = 2, make(reset=reset)
    x, h0, options = draw(N, T, B, I), draw(N, 2 * L, B, H), some(T, B)
    result = torch.vmap(lambda x, h: gru(x, h, **options), in_dims=(axis, 0))(x.movedim(0, axis), h0)
    alone = [gru(x[k], h0[k], **options) for k in range(N)]
    compare(assert_close, result, [torch.stack(parts) for parts in zip(*alone, strict=True)])
    leaves = [x, h0, *gru.parameters()]
    gradients = [torch.autograd.grad(sum(map(scalar, each)), leaves) for each in (zip(*result, strict=True), alone)]
    compare(assert_close, *gradients)


def test_vmap_over_ids_lengths_and_resets(assert_close) -> None:
    N, gru = 3, make()
    ids, lengths = torch.randint(I, (N, T, B)), torch.randint(T + 1, (N, B))
    resets = torch.rand(N, T, B) < 0.4
    result = torch.vmap(lambda x, lengths, resets: gru(x, lengths=lengths, resets=resets))(ids, lengths, resets)
    alone = [gru(ids[k], lengths=lengths[k], resets=resets[k]) for k in range(N)]
    compare(assert_close, result, [torch.stack(parts) for parts in zip(*alone, strict=True)])


@pytest.mark.parametrize("inputs", ["shared", "each"])
def test_vmap_over_weights(assert_close, inputs: str) -> None:
    """An ensemble: functional_call with stacked parameters."""
    N, modules = 4, [make() for _ in range(4)]
    stacked, buffers = torch.func.stack_module_state(modules)
    x = draw(N, T, B, I) if inputs == "each" else draw(T, B, I)

    def call(parameters: dict[str, Tensor], x: Tensor) -> tuple[Tensor, ...]:
        return torch.func.functional_call(modules[0], (parameters, buffers), (x,), {"return_gates": True})

    states, last, gates = torch.vmap(call, in_dims=(0, 0 if inputs == "each" else None))(stacked, x)
    alone = [modules[k](x[k] if inputs == "each" else x, return_gates=True) for k in range(N)]
    expected = [torch.stack(parts) for parts in zip(*((*two, *gates) for *two, gates in alone), strict=True)]
    compare(assert_close, (states, last, *gates), expected)


def test_gradients_per_sample(assert_close) -> None:
    gru, x = GRU(I, H, L, bidirectional=True).double(), draw(T, B, I)
    parameters = {name: value.detach() for name, value in gru.named_parameters()}

    def loss(parameters: dict[str, Tensor], row: Tensor) -> Tensor:
        return scalar(torch.func.functional_call(gru, parameters, (row,)))

    actual = torch.vmap(torch.func.grad(loss), in_dims=(None, 1))(parameters, x)
    for b in range(B):
        expected = torch.autograd.grad(scalar(gru(x[:, b])), list(gru.parameters()))
        compare(assert_close, [actual[name][b] for name in parameters], expected)


@pytest.mark.parametrize("reset", ["after", "before"])
def test_grad_and_vjp(assert_close, reset: str) -> None:
    gru, x, h0, options = make(reset=reset), draw(T, B, I), draw(2 * L, B, H), some(T, B)
    expected = torch.autograd.grad(scalar(gru(x, h0, **options)), [x, h0])
    actual = torch.func.grad(lambda x, h: scalar(gru(x, h, **options)), argnums=(0, 1))(x.detach(), h0.detach())
    compare(assert_close, actual, expected)
    outputs, pull = torch.func.vjp(lambda x, h: gru(x, h, **options), x.detach(), h0.detach())
    d_outputs = [torch.randn_like(v) for v in outputs]
    expected = torch.autograd.grad(gru(x, h0, **options), [x, h0], d_outputs)
    compare(assert_close, pull(tuple(d_outputs)), expected)


@forward_mode
def test_jacrev_and_jacfwd(assert_close) -> None:
    gru, x = GRU(I, H, reset="before").double(), draw(T, I)
    expected = torch.autograd.functional.jacobian(lambda x: gru(x)[0], x)
    assert expected.shape == (T, H, T, I)
    compare(assert_close, [torch.func.jacrev(lambda x: gru(x)[0])(x)], [expected])
    compare(assert_close, [torch.func.jacfwd(lambda x: gru(x)[0])(x)], [expected])


@forward_mode
def test_hessian(assert_close) -> None:
    gru, x = GRU(2, 3).double(), draw(4, 2)
    expected = torch.autograd.functional.hessian(lambda x: scalar(gru(x)), x)
    compare(assert_close, [torch.func.hessian(lambda x: scalar(gru(x)))(x)], [expected], 1e-11)


@forward_mode
@pytest.mark.parametrize("how", ["jvp", "dual numbers"])
@pytest.mark.parametrize("reset", ["after", "before"])
def test_forward_mode(assert_close, reset: str, how: str) -> None:
    """Compare with the transposed gradient and with finite differences."""
    gru, x, h0, options = make(reset=reset), draw(T, B, I), draw(2 * L, B, H), some(T, B)
    dx, dh = torch.randn_like(x), torch.randn_like(h0)
    with torch.no_grad():
        if how == "jvp":
            value, change = torch.func.jvp(lambda x, h: gru(x, h, **options), (x, h0), (dx, dh))
        else:
            with forward_ad.dual_level():
                duals = gru(forward_ad.make_dual(x, dx), forward_ad.make_dual(h0, dh), **options)
                value, change = zip(*map(forward_ad.unpack_dual, duals), strict=True)
        compare(assert_close, value, gru(x, h0, **options))
        e = 1e-5
        above, below = (gru(x + sign * e * dx, h0 + sign * e * dh, **options) for sign in (1, -1))
        compare(assert_close, change, [(a - b) / (2 * e) for a, b in zip(above, below, strict=True)], 1e-8)
    d_outputs = [torch.randn_like(v) for v in value]
    gradients = torch.autograd.grad(gru(x, h0, **options), [x, h0], d_outputs)
    transposed = (gradients[0] * dx).sum() + (gradients[1] * dh).sum()
    forward = sum((d * c).sum() for d, c in zip(d_outputs, change, strict=True))
    assert_close("transposed", forward, transposed, 1e-11)


def test_transforms_of_a_cell(assert_close) -> None:
    N, cell = 2, GRUCell(I, H).double()
    x, h0 = draw(N, B, I), draw(N, B, H)
    compare(assert_close, torch.vmap(cell)(x, h0), [cell(x[k], h0[k]) for k in range(N)])
    expected = torch.autograd.grad(cell(x[0], h0[0]).square().sum(), [x, h0])
    actual = torch.func.grad(lambda x, h: cell(x, h).square().sum(), (0, 1))(x[0], h0[0])
    compare(assert_close, actual, [g[0] for g in expected])


@pytest.mark.parametrize("reset", ["after", "before"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
def test_double_backward(reset: str, training: bool) -> None:
    gru = GRU(2, 3, L, bidirectional=True, learned_state=True, reset=reset).double().train(training)
    x, h0, options = draw(3, 2, 2), draw(2 * L, 2, 3), {"lengths": [3, 1], "resets": torch.eye(3, 2).bool()}
    names = list(dict(gru.named_parameters()))

    def call(x: Tensor, h0: Tensor, *parameters: Tensor) -> Any:
        states, last, gates = torch.func.functional_call(
            gru, dict(zip(names, parameters, strict=True)), (x, h0), {**options, "return_gates": True}
        )
        return states, last, *gates

    leaves = [p.detach().requires_grad_() for p in gru.parameters()]
    assert torch.autograd.gradcheck(call, (x, h0, *leaves), fast_mode=True)
    assert torch.autograd.gradgradcheck(call, (x, h0, *leaves), fast_mode=True)


def test_gradient_penalty(assert_close) -> None:
    """A gradient in the loss, as with torch.nn.GRU."""
    theirs, ours = (kind(I, H, L, bidirectional=True).double() for kind in (nn.GRU, GRU))
    ours.load_state_dict(theirs.state_dict())
    x, results = draw(T, B, I), []
    for module in (ours, theirs):
        (dx,) = torch.autograd.grad(scalar(module(x)), x, create_graph=True)
        penalties = torch.autograd.grad(dx.square().sum(), [x, *module.parameters()], materialize_grads=True)
        results.append((dx, *penalties))
    compare(assert_close, *results, tolerance=1e-11)


@pytest.mark.parametrize("reset", ["after", "before"])
def test_gradient_penalty_follows_the_definition(assert_close, reset: str) -> None:
    """The gradient that is differentiated is the right one, which gradgradcheck does not test."""
    gru, options, results = make(reset=reset), some(T, B), []
    x, h0 = draw(T, B, I), draw(2 * L, B, H)
    for backend in ("auto", "equations"):
        gru.backend = backend
        states, last, gates = gru(x, h0, **options, return_gates=True)
        leaves = [x, h0, *gru.parameters()]
        gradients = torch.autograd.grad(scalar((states, last, *gates)), leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in gradients), leaves)
        scale = max(float(g.abs().max()) for g in second)
        results.append((*gradients, *(g / scale for g in second)))
    compare(assert_close, *results, tolerance=1e-11)


@pytest.mark.parametrize("kind", ["GRU", "GRUCell"])
def test_parametrized_weights(assert_close, kind: str) -> None:
    """Weights may be tensors instead of parameters, as with parametrizations and functional_call."""
    suffix, results = "_l0" if kind == "GRU" else "", []
    theirs = getattr(nn, kind)(I, H).double()
    ours = {"GRU": GRU, "GRUCell": GRUCell}[kind](I, H).double()
    ours.load_state_dict(theirs.state_dict())
    x = draw(T, I)
    for module in (ours, theirs):
        with torch.nn.utils.parametrize.cached():
            for name in ("weight_ih", "weight_hh"):
                nn.utils.parametrizations.weight_norm(module, name + suffix)
            output = module(x)
        output = output if isinstance(output, tuple) else (output,)
        gradients = torch.autograd.grad(scalar(output), [x, *module.parameters()])
        results.append((*output, *gradients))
        assert len(list(module.parameters())) == 6
    compare(assert_close, *results)


# torch.compile


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


compiling = pytest.mark.usefixtures("_fresh_compiler")


def check_compiled(check: Callable[..., None], gru: GRU, compiled: Any, x: Tensor, **options: Any) -> None:
    """Assert that outputs and gradients equal the eager ones."""
    expected, actual = gru(x, **options), compiled(x, **options)
    leaves = [v for v in (x, *gru.parameters()) if v.requires_grad]
    flat = [(*outputs[:2], *itertools.chain(*outputs[2:])) for outputs in (actual, expected)]
    compare(check, *flat)
    if leaves:
        compare(check, *(torch.autograd.grad(scalar(outputs), leaves) for outputs in flat))


@needs_library
@compiling
@pytest.mark.parametrize("reset", ["after", "before"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_compile_forward_and_backward(assert_close, batch_first: bool, reset: str) -> None:
    """One program serves every T and B, without recompiling or unrolling."""
    gru = make(batch_first=batch_first, reset=reset)
    counter, programs = torch._dynamo.testing.CompileCounterWithBackend("aot_eager"), []
    compiled = torch.compile(gru, backend=counter, fullgraph=True, dynamic=True)
    for t, b in ((T, B), (T + 4, B), (T, B + 6), (31, 17)):
        x, options = draw(t, b, I), some(t, b)
        if batch_first:
            x, options["resets"] = x.detach().transpose(0, 1).requires_grad_(), options["resets"].t()
        with torch._dynamo.config.patch(error_on_recompile=True):
            check_compiled(assert_close, gru, compiled, x, **options)
        programs.append((counter.frame_count, counter.op_count))
    assert len(set(programs)) == 1


@needs_library
@compiling
def test_compiled_program_does_not_grow_with_time() -> None:
    sizes = []
    for t in (3, 300):
        torch._dynamo.reset()
        counter = torch._dynamo.testing.CompileCounter()
        torch.compile(make(), backend=counter, fullgraph=True)(draw(t, B, I), **some(t, B))
        sizes.append(counter.op_count)
    assert sizes[0] == sizes[1] < 100


@pytest.mark.slow
@needs_library
@compiling
@pytest.mark.parametrize(
    "options",
    [
        {"bias": False},
        {"bias": "single", "num_layers": 2, "dropout": 0.5},
        {"num_layers": 2, "learned_state": True, "reset": "before"},
    ],
    ids=str,
)
@pytest.mark.parametrize("ids", [False, True], ids=["dense", "ids"])
def test_compile_variants(assert_close, ids: bool, options: dict[str, Any]) -> None:
    gru = GRU(I, H, **options).double().eval()
    compiled = torch.compile(gru, backend="aot_eager", fullgraph=True)
    x = torch.randint(I, (T, B)) if ids else draw(T, B, I)
    check_compiled(assert_close, gru, compiled, x)
    check_compiled(assert_close, gru, compiled, x, hx=draw(gru.num_layers, B, H))
    check_compiled(assert_close, gru, compiled, x[:, 0] if ids else draw(T, I))
    check_compiled(assert_close, gru, compiled, x, return_gates=True)
    with torch.no_grad():
        compare(assert_close, compiled(x), gru(x))
        compare(assert_close, compiled(x, return_gates=True)[2], gru(x, return_gates=True)[2])
    frozen = copy.deepcopy(gru).requires_grad_(False)
    check_compiled(assert_close, frozen, torch.compile(frozen, backend="aot_eager", fullgraph=True), x)


@needs_library
@compiling
def test_compile_in_half_precision() -> None:
    gru = GRU(I, H, L, bidirectional=True).bfloat16()
    compiled = torch.compile(gru, backend="aot_eager", fullgraph=True)
    x = torch.randn(T, B, I).bfloat16()
    assert torch.equal(compiled(x)[0], gru(x)[0])
    gru.float()
    with torch.autocast("cpu", torch.bfloat16):
        states, _ = torch.compile(gru, backend="aot_eager", fullgraph=True)(x)
    assert torch.equal(states, gru(x.float())[0])


@needs_library
@compiling
def test_compile_a_cell_in_a_loop(assert_close) -> None:
    cell = GRUCell(I, H).double()

    def run(x: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        states = []
        for row in x:
            h = cell(row, h)
            states.append(h)
        return torch.stack(states), h

    x, h0 = draw(T, B, I), draw(B, H)
    actual, expected = torch.compile(run, backend="aot_eager", fullgraph=True)(x, h0), run(x, h0)
    compare(assert_close, actual, expected)
    leaves = [x, h0, *cell.parameters()]
    compare(assert_close, *(torch.autograd.grad(scalar(v), leaves) for v in (actual, expected)))


@needs_library
@compiling
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler, there is no g++")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_compile_with_inductor(assert_close) -> None:
    gru, head = make(), nn.Linear(2 * H, I).double()

    def run(x: Tensor, lengths: Tensor, resets: Tensor) -> Tensor:
        states, last = gru(x, lengths=lengths, resets=resets)
        return head(states.sigmoid()).square().sum() + last.tanh().sum()

    compiled = torch.compile(run, fullgraph=True, dynamic=True)
    for t, b in ((T, B), (T + 4, B + 2)):
        x = draw(t, b, I)
        actual, expected = compiled(x, **some(t, b)), run(x, **some(t, b))
        assert_close("loss", actual.detach(), expected.detach(), 1e-11)
        leaves = [x, *gru.parameters(), *head.parameters()]
        compare(assert_close, *(torch.autograd.grad(v, leaves) for v in (actual, expected)), tolerance=1e-11)


# torch.export


class Model(nn.Module):
    """A GRU and a head."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.gru = make(**options)
        self.head = nn.Linear(2 * H, I).double()

    def forward(self, x: Tensor, lengths: Tensor, resets: Tensor) -> tuple[Tensor, Tensor]:
        states, last = self.gru(x, lengths=lengths, resets=resets)
        return self.head(states), last


@needs_library
@compiling
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("ids", [False, True], ids=["dense", "ids"])
def test_export(assert_close, ids: bool, strict: bool) -> None:
    model, time, batch = Model().eval(), torch.export.Dim("time", min=2), torch.export.Dim("batch", min=2)
    shapes = {"x": {0: time, 1: batch}, "lengths": {0: batch}, "resets": {0: time, 1: batch}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some versions of torch warn
        program = torch.export.export(
            model,
            (torch.randint(I, (T, B)) if ids else torch.randn(T, B, I).double(),),
            some(T, B),
            dynamic_shapes=shapes,
            strict=strict,
        )
    called = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert called.count("headgate.gru.default") == 2 * L
    assert len(called) < 60
    exported = program.module()
    for t, b in ((T, B), (T + 4, B + 6), (2, 2)):
        x = torch.randint(I, (t, b)) if ids else torch.randn(t, b, I).double()
        compare(assert_close, exported(x, **some(t, b)), model(x, **some(t, b)))
    gradients = []
    for module in (exported, model):
        values = dict(module.named_parameters())
        result = torch.autograd.grad(scalar(module(x, **some(t, b))), list(values.values()), allow_unused=True)
        gradients.append({n: g for n, g in zip(values, result, strict=True) if g is not None})
    compare(assert_close, [gradients[0][name] for name in gradients[1]], gradients[1].values())


# torch.library


@needs_library
@pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("case", ["dense", "ids", "no bias", "single", "lengths and resets", "learned", "no gates"])
def test_opcheck(case: str, reverse: bool, before: bool) -> None:
    bias_ih = None if case == "no bias" else draw(3 * H)
    bias_hh = None if case in ("no bias", "single") else draw(3 * H)
    options = some(T, B) if case in ("lengths and resets", "learned") else {"lengths": None, "resets": None}
    arguments = (
        torch.randint(I, (T, B)) if case == "ids" else draw(T, B, I),
        draw(B, H),
        draw(3 * H, I),
        draw(3 * H, H),
        bias_ih,
        bias_hh,
        draw(H) if case == "learned" else None,
        options["lengths"],
        options["resets"],
        before,
        reverse,
        True,
        case != "no gates",
    )
    if case == "no gates":  # tensors without a gradient
        arguments = tuple(v.detach() if isinstance(v, Tensor) else v for v in arguments)
    torch.library.opcheck(torch.ops.headgate.gru.default, arguments)


@needs_library
@pytest.mark.parametrize("reset", ["after", "before"])
def test_operator_follows_the_definition(assert_close, reset: str) -> None:
    """Values and all gradients of the operator, called directly as by a compiled program, follow the definition."""
    leaves = [draw(*shape) for shape in ((T, B, I), (B, H), (3 * H, I), (3 * H, H), (3 * H,), (3 * H,), (H,))]
    *six, state = leaves
    options = some(T, B)
    states, last, gates = torch.ops.headgate.gru(*leaves, *options.values(), reset == "before", True, True, True)
    actual = states, last, native_gru.unblocked(gates, H)
    expected = unbundled(equations.sequence)(
        *six, reset=reset, reverse=True, **options, reset_state=state, return_gates=True
    )  # fmt: skip
    compare(assert_close, actual, expected)
    compare(assert_close, *(torch.autograd.grad(scalar(v), leaves) for v in (actual, expected)), tolerance=1e-11)


@needs_library
def test_a_program_traced_without_gradients_can_compute_them(assert_close) -> None:
    """The program kept no gates, so backward recomputes them."""
    layer = GRU(I, H).double()
    x = draw(T, B, I)
    with torch.no_grad():
        program = torch.export.export(layer, (x,), strict=False).module()
    expected = torch.autograd.grad(layer(x)[0].square().sum(), x)[0]
    actual = torch.autograd.grad(program(x)[0].square().sum(), x)[0]
    assert_close("dx", actual, expected, 1e-12)
