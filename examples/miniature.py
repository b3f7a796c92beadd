"""Reduce a run directory to what ``headgate generate`` reads: settings, vocabulary, and the best weights in bfloat16.

This made the model that comes with headgate, from ``headgate train voyage`` with the defaults:

    python examples/miniature.py runs/voyage src/headgate/runs/pretrained/voyage
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save

from headgate.runs.run_directory import RunDirectory


def shrink(run: Path, out: Path) -> None:
    """Write the three files that ``headgate generate`` reads into ``out``."""
    weights = RunDirectory.open(run).weights(best=(run / "best.safetensors").exists())
    out.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "tokenizer.json"):
        (out / name).write_bytes((run / name).read_bytes())
    halves = {name: torch.from_numpy(value).bfloat16() for name, value in weights.items()}
    (out / "model.safetensors").write_bytes(save(halves))


if __name__ == "__main__":
    shrink(Path(sys.argv[1]), Path(sys.argv[2]))
