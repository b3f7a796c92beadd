"""Time training steps of a language model with a large vocabulary: linear, tied and adaptive heads, on the CPU.

Each head is trained in its own process, one step of each in turn. Reported are the median tokens per second and the
peak resident memory of each process. Ids are drawn from Zipf's law, the most frequent first. The last line is a linear
head computed by torch's operations, which hold the logits of all tokens.

    python benchmarks/heads.py [--vocabulary 30000] [--hidden-size 256] [--rounds 15] [--threads 2]
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch

from headgate import LanguageModel
from headgate.settings.run import ModelSettings

T, B = 35, 32
HEADS = ("linear", "tied", "adaptive", "linear, torch")


def work(head: str, options: argparse.Namespace) -> None:
    """Train one step per line of stdin and print its time and memory as JSON."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    V, H = options.vocabulary, options.hidden_size
    name, _, backend = head.partition(", ")
    settings = ModelSettings(hidden_size=H, embedding=H, head=name, dropout=0.0)
    model = LanguageModel(settings, V, backend="auto")
    if backend:
        torch_loss(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    frequencies = 1 / torch.arange(1, V + 1.0)
    for _ in sys.stdin:
        ids = torch.multinomial(frequencies, (T + 1) * B, replacement=True).view(T + 1, B)
        began = time.perf_counter()
        optimizer.zero_grad()
        loss, _ = model.loss(ids[:-1], ids[1:])
        loss.backward()
        optimizer.step()
        seconds = time.perf_counter() - began
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        parameters = sum(p.numel() for p in model.parameters())
        print(json.dumps({"seconds": seconds, "MiB": memory, "parameters": parameters}), flush=True)


def torch_loss(model: LanguageModel) -> None:
    """Make the model compute its loss with torch's operations on all logits at once."""

    def loss(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, state = model(x)
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten()), state

    model.loss = loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocabulary", type=int, default=30_000)
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--worker", choices=HEADS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options)
        return
    workers = {
        head: subprocess.Popen(
            [sys.executable, __file__, *sys.argv[1:], "--worker", head],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for head in HEADS
    }  # fmt: skip
    measured: dict[str, list[dict[str, float]]] = {head: [] for head in HEADS}
    for _ in range(options.rounds + 2):
        for head, worker in workers.items():
            print(file=worker.stdin, flush=True)
            measured[head].append(json.loads(worker.stdout.readline()))
    print(
        f"V = {options.vocabulary:,}, H = {options.hidden_size}, {T} x {B} tokens per step, {options.threads} threads"
    )
    for head, steps in measured.items():
        speed = T * B / statistics.median(step["seconds"] for step in steps[2:])
        print(f"{head:<14} {steps[0]['parameters'] / 1e6:6.1f} M parameters  {speed:7,.0f} tokens/s  "
              f"{steps[-1]['MiB']:6,.0f} MiB")  # fmt: skip
        workers[head].stdin.close()
        workers[head].wait()


if __name__ == "__main__":
    main()
