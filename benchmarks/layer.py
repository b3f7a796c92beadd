"""The layer against torch.nn.GRU with the same weights: forward and backward, forward alone, share of the FMA peak.

Before anything is timed, values and all gradients must agree. Packing of the weights is in every call.

    python benchmarks/layer.py [--threads 2] [--rounds 9]
"""

import statistics
import time
from functools import partial

import torch
from torch import Tensor, nn

from headgate import GRU
from headgate.kernels import cpu, native
from rounds import conclude, fma_rate, geometric_mean, in_turn, machine, ratio, start

SHAPES = {  # T, B, I, H: forward and backward at least so many times faster
    (35, 1, 32, 256): 10.0,
    (35, 4, 32, 256): 5.0,
    (35, 32, 64, 64): 5.0,
    (200, 32, 128, 128): 3.5,
    (35, 32, 32, 256): 2.5,
    (50, 64, 512, 512): 1.5,
    (20, 128, 1024, 1024): 1.12,
}
MEAN, MEAN_FORWARD, SHARE = 3.3, 2.5, 0.75


def pair(T: int, B: int, I: int, H: int) -> tuple[nn.GRU, GRU, Tensor, Tensor, Tensor]:  # noqa: E741
    """Both layers with the same weights, an input, a first state, and the gradient of the outputs."""
    theirs, ours = nn.GRU(I, H), GRU(I, H, backend="cpu")
    ours.load_state_dict(theirs.state_dict())
    x, h0 = torch.randn(T, B, I, requires_grad=True), torch.zeros(1, B, H, requires_grad=True)
    return theirs, ours, x, h0, torch.randn(T, B, H)


def step(layer: nn.Module, x: Tensor, h0: Tensor, d_states: Tensor) -> tuple[Tensor, ...]:
    states, _ = layer(x, h0)
    return states, *torch.autograd.grad(states, [x, h0, *layer.parameters()], d_states)


def forward(layer: nn.Module, x: Tensor, h0: Tensor) -> Tensor:
    with torch.inference_mode():
        return layer(x, h0)[0]


def parity_gate(theirs: nn.GRU, ours: GRU, *rest: Tensor) -> float:
    """The largest difference of a value or gradient, relative to the tensor's largest element. Raises above 1e-4."""
    worst = max(
        float((a - b).detach().abs().max() / b.detach().abs().max())
        for a, b in zip(step(ours, *rest), step(theirs, *rest), strict=True)
    )
    if not worst < 1e-4:
        raise SystemExit(f"ours and torch.nn.GRU disagree ({worst:.1e}): nothing was timed")
    return worst


def main() -> None:
    options = start(__doc__)
    print(f"{'T':>4} {'B':>4} {'I':>5} {'H':>5}   {'forward + backward':^32}   {'forward':^32}   parity")
    goals, results = {}, []
    for shape, least in SHAPES.items():
        T, B, I, H = shape  # noqa: E741 - the letters of the equations
        *layers, x, h0, d_states = both = pair(*shape)
        worst = parity_gate(*both)
        times = in_turn([partial(step, layer, x, h0, d_states) for layer in layers], options.rounds)
        alone = in_turn([partial(forward, layer, x, h0) for layer in layers], options.rounds)
        found = {"shape": shape, "ratio": ratio(*times), "forward": ratio(*alone)}
        flop = 2 * T * B * 3 * H * (H + I)
        columns = [
            f"{sorted(t)[len(t) // 2] * 1e3:8.2f} /{sorted(o)[len(o) // 2] * 1e3:8.2f} ms {ratio(t, o):6.2f}x"
            for t, o in (times, alone)
        ]
        print(f"{T:>4} {B:>4} {I:>5} {H:>5}   {columns[0]:>32}   {columns[1]:>32}   {worst:.0e}", flush=True)
        found["gflops"] = 3 * flop / sorted(times[1])[options.rounds // 2] / 1e9
        results.append(found)
        goals[f"forward + backward T={T} B={B} I={I} H={H}"] = (found["ratio"], least)
    goals["geometric mean"] = (geometric_mean(r["ratio"] for r in results), MEAN)
    goals["geometric mean, forward"] = (geometric_mean(r["forward"] for r in results), MEAN_FORWARD)
    print(f"\ngeometric means: {goals['geometric mean'][0]:.2f}x, forward {goals['geometric mean, forward'][0]:.2f}x")
    for name, share in recurrent_share(options.threads).items():
        goals[f"share of the FMA peak, {name}"] = (share, SHARE)
        print(f"recurrent kernel, B=32, H=256, {name}: {share:.0%} of the FMA peak")
    conclude(goals, threads=options.threads, machine=machine(options.threads), results=results)


def recurrent_share(threads: int, seconds: float = 3.0) -> dict[str, float]:
    """What the recurrence makes of the FMA peak: B=32, H=256, T=35, ids of a small vocabulary, the kernel alone.

    Peak and kernel in turn, because processors change their clock with the work: the median of the ratios.
    """
    T, B, V, H = 35, 32, 28, 256
    layer = GRU(V, H, backend="cpu")
    weights = [w.detach() for w in layer.all_weights[0]]
    arguments = cpu._Arguments(torch.randint(V, (T, B)), torch.zeros(B, H), *weights, None, None, None, False, False)
    states, _, gates = cpu._forward(arguments, True)
    d_states, needed = torch.randn(T, B, H), (False, *[True] * 5, False)
    kernels = {
        "forward": (1, lambda: cpu._forward(arguments, True)),
        "backward": (2, lambda: cpu._backward(arguments, states, gates, (d_states, None, None), needed)),
    }
    shares = {}
    for name, (products, kernel) in kernels.items():
        ratios, end = [], time.perf_counter() + seconds
        while time.perf_counter() < end:
            peak = fma_rate(threads)
            began = time.perf_counter()
            kernel()
            ratios.append(products * 2 * T * B * 3 * H * H / (time.perf_counter() - began) / peak)
        shares[name] = statistics.median(ratios)
    return shares


if __name__ == "__main__":
    assert native.load() is not None, native.MISSING
    main()
