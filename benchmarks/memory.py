"""Measure the peak memory that a training step adds: ours against torch.nn.GRU, B=32, T=200, H=256.

Each is measured in its own process, after one small step, by the high-water mark of the Linux kernel.

    python benchmarks/memory.py
"""

import json
import subprocess
import sys
from pathlib import Path

from rounds import conclude

T, B, I, H = 200, 32, 256, 256  # noqa: E741 - the letters of the equations
MOST = 1.0  # ours over torch.nn.GRU's


def resident(field: str) -> int:
    """Return VmRSS or VmHWM of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def measure(kind: str) -> None:
    import torch

    from headgate import GRU

    torch.manual_seed(0)
    layer = GRU(I, H) if kind == "ours" else torch.nn.GRU(I, H)

    def step(T: int) -> None:
        states, _ = layer(torch.randn(T, B, I, requires_grad=True))
        states.sum().backward()

    step(2)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    step(T)
    print(json.dumps(resident("VmHWM") - before))


def main() -> None:
    peaks = {
        kind: min(
            int(subprocess.run([sys.executable, __file__, kind], check=True, capture_output=True, text=True).stdout)
            for _ in range(3)
        )
        for kind in ("torch.nn.GRU", "ours")
    }
    for kind, value in peaks.items():
        print(f"{kind:<14} {value / 2**20:7.1f} MiB")
    share = peaks["ours"] / peaks["torch.nn.GRU"]
    print(f"ours / torch.nn.GRU: {share:.2f}")
    conclude({"torch.nn.GRU's memory over ours": (1 / share, 1 / MOST)}, bytes=peaks)


if __name__ == "__main__":
    measure(sys.argv[1]) if len(sys.argv) > 1 else main()
