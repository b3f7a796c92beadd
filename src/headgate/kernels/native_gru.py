"""The backend ``native``: the native library as a differentiable function of tensors, float32 and float64.

An eager call runs an ``autograd.Function``. Under ``torch.compile`` and ``torch.export``, with a mode active or with
tensor subclasses, the same computation is the operator ``headgate::gru``. Second derivatives and batched gradients are
computed through the definition in equations.py.

Letters: T time steps, B batch, I input size, H hidden size.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, get_type_hints

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.flop_counter import register_flop_formula

from headgate import equations, machine, native
from headgate.equations import Options, Weights
from headgate.kernels import memory, watch
from headgate.kernels.dense import check_floats, check_range, dense, resolved


class _Arguments(NamedTuple):
    """Inputs, weights and options in one flat tuple, as autograd and the operator take them."""

    x: Tensor
    h0: Tensor
    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor | None
    bias_hh: Tensor | None
    reset_state: Tensor | None
    lengths: Tensor | None
    resets: Tensor | None
    before: bool
    reverse: bool
    invariant: bool

    @classmethod
    def of(cls, x: Tensor, h0: Tensor, weights: Weights, options: Options) -> "_Arguments":
        return cls(
            x,
            h0,
            *weights,
            options.reset_state,
            options.lengths,
            options.resets,
            options.reset == "before",
            options.reverse,
            options.batch_invariant,
        )

    @property
    def differentiable(self) -> tuple[Tensor | None, ...]:
        """The arguments that may need a gradient."""
        return self[:DIFFERENTIABLE]  # type: ignore[return-value]

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        return self[:TENSORS]  # type: ignore[return-value]

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """The sizes T, B, I, H."""
        return *self.x.shape[:2], self.weight_ih.shape[1], self.weight_hh.shape[1]


# The tensors come first among the fields, and among them those that may need a gradient.
DIFFERENTIABLE, TENSORS = _Arguments._fields.index("lengths"), _Arguments._fields.index("before")
FIELDS = len(_Arguments._fields)


def sequence(x: Tensor, h0: Tensor, weights: Weights, options: Options = Options()) -> tuple[Tensor, ...]:
    """Compute :func:`headgate.equations.sequence`; other floating dtypes are computed in float32 and converted back."""
    arguments = _Arguments.of(x, h0, weights, options)
    dtype, supported = weights.hh.dtype, weights.hh.itemsize in native.SUFFIXES
    if not supported:
        tensors = (v.float() if v is not None and v.is_floating_point() else v for v in arguments.differentiable)
        arguments = _Arguments(*tensors, *arguments[DIFFERENTIABLE:])  # type: ignore[arg-type]
    needed = torch.is_grad_enabled() and any(v is not None and v.requires_grad for v in arguments.differentiable)
    if not watch.unwatched(arguments.tensors) and _through_the_operator(arguments.tensors):
        states, last, gates = _operator(*arguments, needed or options.return_gates)
    elif needed:
        states, last, gates = _Gru.apply(*arguments)
    else:
        states, last, gates = _forward(arguments, options.return_gates)
    outputs = (states, last, unblocked(gates, h0.shape[1])) if options.return_gates else (states, last)
    return outputs if supported else tuple(v.to(dtype) for v in outputs)


def _through_the_operator(tensors: Sequence[Tensor | None]) -> bool:
    """Return True if something follows the call that can only see operators."""
    return torch.compiler.is_compiling() or watch.by_modes() or not watch.plain(tensors)


class _Gru(torch.autograd.Function):
    """The fields of _Arguments -> the outputs of _forward, with the gates kept."""

    @staticmethod
    def forward(ctx: Any, *fields: Any) -> tuple[Tensor, Tensor, Tensor]:
        outputs = _forward(_Arguments(*fields), True)
        _remember(ctx, fields, outputs)
        return outputs

    @staticmethod
    def backward(ctx: Any, *d_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        *tensors, states, gates = ctx.saved_tensors
        needed = ctx.needs_input_grad[:DIFFERENTIABLE]
        gradients = _gradients(_Arguments(*tensors, *ctx.flags), states, gates, d_outputs, needed)
        return (*_placed(gradients, needed), *[None] * (FIELDS - DIFFERENTIABLE))


def _blocked(T: int, B: int, H: int) -> tuple[int, ...]:
    """Return the shape in which the library stores gates: hidden units in blocks, and in each block all rows."""
    return T, -(-H // native.GATE_LANES), B, 4, native.GATE_LANES


def unblocked(gates: Tensor, H: int) -> Tensor:
    """Convert gates from the library's layout to r, z, n (T, B, 3H)."""
    T, blocks, B, _, lanes = gates.shape
    units = gates.permute(0, 2, 3, 1, 4).reshape(T, B, 4, blocks * lanes)
    return units[:, :, :3, :H].reshape(T, B, 3 * H)


def _remember(ctx: Any, fields: Sequence[Any], outputs: tuple[Tensor, Tensor, Tensor]) -> None:
    states, _, gates = outputs
    ctx.save_for_backward(*fields[:TENSORS], states, gates)
    ctx.flags = fields[TENSORS:FIELDS]
    ctx.set_materialize_grads(False)


def _placed(gradients: Sequence[Tensor | None], needed: Sequence[bool]) -> list[Tensor | None]:
    """Return a list with each gradient at the position of its argument, and None at the others."""
    rest = iter(gradients)
    return [next(rest) if need else None for need in needed]


def _gradients(
    arguments: _Arguments, states: Tensor, gates: Tensor, d_outputs: Sequence[Tensor | None], needed: Sequence[bool]
) -> Sequence[Tensor | None]:
    """Compute the needed gradients by a path that modes, transforms and tensor subclasses can follow."""
    again = torch.is_grad_enabled()  # the gradients will be differentiated in turn
    if not again:
        if watch.unwatched((*arguments.tensors, states, gates, *d_outputs)):
            if not watch.batched(d_outputs):
                return _backward(arguments, states, gates, d_outputs, needed)
        elif torch.compiler.is_compiling() or not (watch.batched(d_outputs) or watch.transformed() or watch.recorded()):
            gradients: Sequence[Tensor] = _operator_backward(*arguments, states, gates, *d_outputs, list(needed))
            return gradients
    with torch.enable_grad():
        return _through_the_definition(arguments, d_outputs, needed, again)


def _through_the_definition(
    arguments: _Arguments, d_outputs: Sequence[Tensor | None], needed: Sequence[bool], again: bool
) -> Sequence[Tensor | None]:
    """Compute the gradients from the definition; ``again`` makes them differentiable."""
    leaves: list[Any] = [
        v.view_as(v) if v is not None and need else v for v, need in zip(arguments.differentiable, needed, strict=True)
    ]
    x, h0, *weights, reset_state = leaves
    options = Options(
        "before" if arguments.before else "after",
        arguments.reverse,
        arguments.lengths,
        arguments.resets,
        reset_state,
        return_gates=True,
    )
    outputs = equations.sequence(x, h0, Weights(*weights), options)
    pairs = [
        (output, unblocked(d, output.shape[-1] // 3) if d.dim() == 5 else d)
        for output, d in zip(outputs, d_outputs, strict=True)
        if d is not None and output.requires_grad
    ]
    inputs = [v for v, need in zip(leaves, needed, strict=True) if need and v is not None]
    return torch.autograd.grad(
        [output for output, _ in pairs], inputs, [d for _, d in pairs], create_graph=again, allow_unused=True
    )


def _forward(arguments: _Arguments, keep_gates: bool, *, checked: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Run the library forward -> states (T, B, H), last (B, H), gates as in native/headgate.h, empty unless kept."""
    described, alive = _describe(arguments, checked)
    T, B, _, H = arguments.sizes
    h0 = arguments.h0
    states, last = memory.empty((T, B, H), h0.dtype), h0.new_empty(B, H)
    gates = memory.empty(_blocked(T, B, H) if keep_gates else (0,), h0.dtype)
    described.states, described.last = states.data_ptr(), last.data_ptr()
    described.gates = gates.data_ptr() if keep_gates else None
    native.call(f"forward_{native.SUFFIXES[h0.itemsize]}", described)
    del alive
    return states, last, gates


def _backward(
    arguments: _Arguments,
    states: Tensor,
    gates: Tensor,
    d_outputs: Sequence[Tensor | None],
    needed: Sequence[bool],
    *,
    checked: bool = True,
) -> list[Tensor]:
    """Run the library backward; return the gradients of the arguments that need one."""
    h0 = arguments.h0
    described, alive = _describe(arguments, checked)
    T, B, _, H = arguments.sizes
    shapes = (T, B, H), (B, H), _blocked(T, B, H)
    for tensor, shape in ((states, shapes[0]), (gates, shapes[2])):
        if tensor.shape != shape or tensor.dtype != h0.dtype:
            raise RuntimeError(
                f"a tensor kept for backward, {shape} {h0.dtype}, came back as {tuple(tensor.shape)} {tensor.dtype}: "
                "hooks on saved tensors must return the tensor that was saved"
            )
    kept = dense("states", states, shapes[0], h0.dtype), dense("gates", gates, shapes[2], h0.dtype)
    described.states, described.gates = (v.data_ptr() for v in kept)
    incoming = [
        None if d is None else dense(name, d, shape, h0.dtype)
        for name, d, shape in zip(("d_states", "d_last", "d_gates"), d_outputs, shapes, strict=True)
    ]
    if needed[0] and not arguments.x.is_floating_point():
        raise RuntimeError("ids have no gradient")
    owners = (*arguments.differentiable[:-1], h0)  # of reset_state each row gets its own gradient, summed below
    gradients = [
        memory.empty(v.shape, v.dtype) if need and v is not None else None
        for v, need in zip(owners, needed, strict=True)
    ]
    pointers = [None if v is None else v.data_ptr() for v in (*incoming, *gradients)]
    native.call(f"backward_{native.SUFFIXES[h0.itemsize]}", described, native.Gradients(*pointers))
    del alive, kept
    if gradients[6] is not None:
        gradients[6] = gradients[6].sum(0)
    return [g for g in gradients if g is not None]


def _describe(arguments: _Arguments, checked: bool) -> tuple[native.Gru, list[Tensor | None]]:
    """Return the library's description of the arguments, and the tensors that must outlive the call.

    ``checked``: functional.py has already checked the range of ids and lengths; compiled programs cannot check values.
    Raises RuntimeError for wrong arguments.
    """
    x, h0, weight_ih, weight_hh, bias_ih, bias_hh, reset_state, lengths, resets, *_ = arguments
    ids, dtype = not x.is_floating_point(), h0.dtype
    if x.dim() != (2 if ids else 3) or not weight_ih.dim() == weight_hh.dim() == 2 or not weight_hh.shape[1]:
        shapes = [tuple(v.shape) for v in (x, weight_ih, weight_hh)]
        raise RuntimeError(
            f"x must be (T, B, I) or ids (T, B), weight_ih (3H, I), weight_hh (3H, H) with H > 0, got {shapes}"
        )
    check_floats("h0", dtype)
    T, B, I, H = arguments.sizes  # noqa: E741 - the letter of the equations
    if ids:
        x = _read("ids", x, (T, B), I - 1, checked)
    elif x.shape[2] != I or x.dtype != dtype or not x.is_cpu:
        raise RuntimeError(f"x must be {dtype} (T, B, {I}) on cpu, got {x.dtype} {tuple(x.shape)} on {x.device}")
    else:
        x = resolved("x", x.contiguous() if I > 1 and x.stride(2) != 1 else x)
    if resets is not None:
        resets = dense("resets", resets, (T, B), torch.bool)
    alive = [
        x,
        *(
            None if v is None else dense(name, v, shape, dtype)
            for name, v, shape in (
                ("h0", h0, (B, H)),
                ("weight_ih", weight_ih, (3 * H, I)),
                ("weight_hh", weight_hh, (3 * H, H)),
                ("bias_ih", bias_ih, (3 * H,)),
                ("bias_hh", bias_hh, (3 * H,)),
                ("reset_state", reset_state, (H,)),
            )
        ),
        None if lengths is None else _read("lengths", lengths, (B,), T, checked),
        resets,
    ]
    x_at, *at = (None if v is None else v.data_ptr() for v in alive)
    h0_at, weight_ih_at, weight_hh_at, bias_ih_at, bias_hh_at, reset_state_at, lengths_at, resets_at = at
    described = native.Gru(
        T,
        B,
        I,
        H,
        arguments.before,
        arguments.reverse,
        machine.capped(torch.get_num_threads()),
        ids,
        arguments.invariant,
        None if ids else x_at,
        x.stride(0),
        x.stride(1),
        x_at if ids else None,
        h0_at,
        weight_ih_at,
        weight_hh_at,
        bias_ih_at,
        bias_hh_at,
        lengths_at,
        resets_at,
        reset_state_at,
    )
    return described, alive


def _read(name: str, values: Tensor, shape: tuple[int, ...], largest: int, checked: bool) -> Tensor:
    """Return ids or lengths as int64, their range checked unless ``checked``; for a subclass it is always checked."""
    if values.dtype not in (torch.int32, torch.int64) or values.shape != shape:
        raise RuntimeError(f"{name} must be int32 or int64 {shape}, got {values.dtype} {tuple(values.shape)}")
    result = dense(name, values.long(), shape, torch.int64)
    if not checked or type(values) is not Tensor:
        check_range(name, result, largest)
    return result


def _check_run(arguments: _Arguments) -> None:
    """Raise RuntimeError if a recorded program does not allow these shapes, and in forward-mode differentiation."""
    if forward_ad._current_level >= 0:  # torch would treat the tangent as zero
        raise RuntimeError(
            "headgate::gru cannot be differentiated in forward mode: call the module, not the program recorded of it"
        )
    T, B, I, H = arguments.sizes  # noqa: E741 - the letter of the equations
    x_shape = (T, B, I) if arguments.x.is_floating_point() else (T, B)
    shapes = x_shape, (B, H), (3 * H, I), (3 * H, H), (3 * H,), (3 * H,), (H,), (B,), (T, B)
    for name, tensor, shape in zip(_Arguments._fields, arguments, shapes, strict=False):
        if isinstance(tensor, Tensor) and tensor.shape != shape:
            raise RuntimeError(
                f"headgate::gru: {name} must be {shape}, got {tuple(tensor.shape)}: a program recorded with one number "
                "of rows or steps may hold for no other"
            )


def _schema(rest: str) -> str:
    """Return the signature of an operator that takes _Arguments and ``rest``."""
    kinds = {Tensor: "Tensor", Tensor | None: "Tensor?", bool: "bool"}
    return "(" + ", ".join(f"{kinds[kind]} {name}" for name, kind in get_type_hints(_Arguments).items()) + ", " + rest


@torch.library.custom_op(
    "headgate::gru", mutates_args=(), schema=_schema("bool keep_gates) -> (Tensor, Tensor, Tensor)")
)
def _operator(*fields: Any) -> tuple[Tensor, Tensor, Tensor]:
    arguments = _Arguments(*fields[:FIELDS])
    _check_run(arguments)
    return _forward(arguments, fields[FIELDS], checked=False)


@_operator.register_fake
def _(*fields: Any) -> tuple[Tensor, Tensor, Tensor]:
    T, B, _, H = _Arguments(*fields[:FIELDS]).sizes
    h0 = fields[1]
    return h0.new_empty(T, B, H), h0.new_empty(B, H), h0.new_empty(_blocked(T, B, H) if fields[FIELDS] else 0)


@torch.library.custom_op(
    "headgate::gru_backward",
    mutates_args=(),
    schema=_schema(
        "Tensor states, Tensor gates, Tensor? d_states, Tensor? d_last, Tensor? d_gates, bool[] needed) -> Tensor[]"
    ),
)
def _operator_backward(*fields: Any) -> list[Tensor]:
    arguments = _Arguments(*fields[:FIELDS])
    states, gates, *d_outputs, needed = fields[FIELDS:]
    _check_run(arguments)
    return _backward(arguments, states, gates, d_outputs, needed, checked=False)


@_operator_backward.register_fake
def _(*fields: Any) -> list[Tensor]:
    return [
        torch.empty_like(v, memory_format=torch.contiguous_format)
        for v, need in zip(fields[:DIFFERENTIABLE], fields[-1], strict=True)
        if need
    ]


def _differentiate(ctx: Any, *d_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
    needed = list(ctx.needs_input_grad[:DIFFERENTIABLE])
    *tensors, states, gates = ctx.saved_tensors
    if not gates.numel():  # traced without gradients, run with them: the gates were not kept
        states, _, gates = _operator(*tensors, *ctx.flags, True)
    gradients = _gradients(_Arguments(*tensors, *ctx.flags), states, gates, d_outputs, needed)
    return (*_placed(gradients, needed), *[None] * (FIELDS + 1 - DIFFERENTIABLE))


_operator.register_autograd(_differentiate, setup_context=lambda ctx, inputs, output: _remember(ctx, inputs, output))


@register_flop_formula(torch.ops.headgate.gru)
def _flops(x: Sequence[int], h0: Sequence[int], weight_ih: Sequence[int], *_: Any, **__: Any) -> int:
    """Count the operations of the matrix products, as torch does; an embedding lookup counts as zero."""
    (T, B), H = x[:2], h0[1]
    return 2 * T * B * 3 * H * (H + (weight_ih[1] if len(x) == 3 else 0))


@register_flop_formula(torch.ops.headgate.gru_backward)
def _flops_of_backward(x: Sequence[int], h0: Sequence[int], weight_ih: Sequence[int], *rest: Any, **_: Any) -> Any:
    """Count the operations of the products for the needed gradients (the last argument) and of backpropagation."""
    (T, B), H, needed = x[:2], h0[1], rest[-1]
    of_input = (needed[0] + needed[2]) * weight_ih[1] * T if len(x) == 3 else 0
    return 2 * B * 3 * H * (of_input + H * (T * needed[3] + max(T - 1, 0) + (T > 0) * needed[1]))
