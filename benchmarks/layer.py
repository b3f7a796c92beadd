"""Time the layer against torch.nn.GRU with the same weights: forward + backward, forward alone, share of the FMA peak.

Before anything is timed, values and all gradients must agree. Every call includes packing the weights. Ours is timed
with its defaults and, if the processor has matrix tiles, also with batch_invariant=False, which uses them.

    python benchmarks/layer.py [--threads 2] [--rounds 9]
"""

import time
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from headgate import GRU, native
from headgate.kernels import native_gru
from rounds import conclude, fma_rate, geometric_mean, in_turn, machine, ratio, start

SHAPES = {  # T, B, I, H: least speed-up of forward + backward
    (35, 1, 32, 256): 10.0,
    (35, 4, 32, 256): 5.0,
    (35, 32, 64, 64): 5.0,
    (200, 32, 128, 128): 3.5,
    (35, 32, 32, 256): 2.5,
    (50, 64, 512, 512): 1.5,
    (20, 128, 1024, 1024): 1.12,
}
MEAN, MEAN_FORWARD, SHARE = 3.3, 2.5, 0.75


def ways() -> dict[str, bool]:
    """Return the variants of ours: {name: batch_invariant}."""
    return {"ours": True, "batch_invariant=False": False} if native.level() == "AMX" else {"ours": True}


def layers(T: int, B: int, I: int, H: int) -> tuple[list[nn.Module], Tensor, Tensor, Tensor]:  # noqa: E741
    """Return theirs and ours with the same weights, an input, an initial state, and the gradient of the outputs."""
    theirs = nn.GRU(I, H)
    ours = [GRU(I, H, batch_invariant=invariant, backend="native") for invariant in ways().values()]
    for layer in ours:
        layer.load_state_dict(theirs.state_dict())
    x, h0 = torch.randn(T, B, I, requires_grad=True), torch.zeros(1, B, H, requires_grad=True)
    return [theirs, *ours], x, h0, torch.randn(T, B, H)


def step(layer: nn.Module, x: Tensor, h0: Tensor, d_states: Tensor) -> tuple[Tensor, ...]:
    states, _ = layer(x, h0)
    return states, *torch.autograd.grad(states, [x, h0, *layer.parameters()], d_states)


def forward(layer: nn.Module, x: Tensor, h0: Tensor) -> Tensor:
    with torch.inference_mode():
        return layer(x, h0)[0]


def parity_gate(theirs: nn.Module, ours: nn.Module, *rest: Tensor) -> float:
    """Return the largest difference of values or gradients, relative to the tensor's largest; exit if above 1e-4."""
    worst = max(
        float((a - b).detach().abs().max() / b.detach().abs().max())
        for a, b in zip(step(ours, *rest), step(theirs, *rest), strict=True)
    )
    if not worst < 1e-4:
        raise SystemExit(f"ours and torch.nn.GRU disagree ({worst:.1e}): nothing was timed")
    return worst


def main() -> None:
    options = start(__doc__)
    header = "   T    B     I     H   ", f"{'forward + backward, ms: theirs / ours':^44}", f"{'forward':^44}", "parity"
    print("   ".join(header))
    goals, results = {}, []
    for shape, least in SHAPES.items():
        result: dict[str, Any] = {"shape": shape}
        (theirs, *ours), *rest = layers(*shape)
        worst = max(parity_gate(theirs, layer, *rest) for layer in ours)
        columns = []
        for what, run, arguments in (("both", step, rest), ("forward", forward, rest[:2])):
            first, *others = in_turn([partial(run, layer, *arguments) for layer in (theirs, *ours)], options.rounds)
            result[what] = [ratio(first, times) for times in others]
            times = " ".join(f"{median(t) * 1e3:.2f} {r:.2f}x" for t, r in zip(others, result[what], strict=True))
            columns.append(f"{median(first) * 1e3:.2f} / {times}")
        print(
            "{:>4} {:>4} {:>5} {:>5}".format(*shape), f"  {columns[0]:^44}   {columns[1]:^44}   {worst:.0e}", flush=True
        )
        results.append(result)
        for way, speedup in zip(ways(), result["both"], strict=True):
            goals["{}: forward + backward T={} B={} I={} H={}".format(way, *shape)] = (speedup, least)
    print()
    for i, (way, invariant) in enumerate(ways().items()):
        means = [geometric_mean(r[what][i] for r in results) for what in ("both", "forward")]
        goals |= {f"{way}: mean": (means[0], MEAN), f"{way}: mean, forward": (means[1], MEAN_FORWARD)}
        print(f"{way}: geometric means {means[0]:.2f}x, forward {means[1]:.2f}x")
        for name, share in recurrent_share(options.threads, invariant).items():
            goals[f"{way}: share of the FMA peak, {name}"] = (share, SHARE)
            print(f"{way}: recurrent kernel, B=32, H=256, {name}: {share:.0%} of the FMA peak")
    conclude(goals, threads=options.threads, machine=machine(options.threads), results=results)


def recurrent_share(threads: int, invariant: bool, seconds: float = 3.0) -> dict[str, float]:
    """Return the share of the FMA peak that the recurrent kernel alone reaches: B=32, H=256, T=35, a small vocabulary.

    The median ratio of kernel and peak, measured in turn because processors adapt their clock to the work.
    """
    T, B, V, H = 35, 32, 28, 256
    layer = GRU(V, H, backend="native")
    weights = [w.detach() for w in layer.all_weights[0]]
    x, h0, nothing = torch.randint(V, (T, B)), torch.zeros(B, H), [None] * 3
    arguments = native_gru._Arguments(x, h0, *weights, *nothing, before=False, reverse=False, invariant=invariant)
    states, _, gates = native_gru._forward(arguments, True)
    d_states, needed = torch.randn(T, B, H), (False, *[True] * 5, False)
    kernels = {
        "forward": (1, lambda: native_gru._forward(arguments, True)),
        "backward": (2, lambda: native_gru._backward(arguments, states, gates, (d_states, None, None), needed)),
    }
    shares = {}
    for name, (products, kernel) in kernels.items():
        ratios, end = [], time.perf_counter() + seconds
        while time.perf_counter() < end:
            peak = fma_rate(threads)
            began = time.perf_counter()
            kernel()
            ratios.append(products * 2 * T * B * 3 * H * H / (time.perf_counter() - began) / peak)
        shares[name] = median(ratios)
    return shares


if __name__ == "__main__":
    assert native.load() is not None, native.MISSING
    main()
