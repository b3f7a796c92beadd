"""Time ``headgate generate`` from its start to the end of 50 characters: whole processes, in turn, medians.

For comparison: Python alone, with NumPy, and with torch, which generate does not load.

    python benchmarks/startup.py [--rounds 15]
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from headgate.models.language_model import LanguageModel, numpy_weights
from headgate.runs.checkpoint import Checkpoint
from headgate.runs.run_directory import RunDirectory
from headgate.settings.run import ModelSettings, Settings
from headgate.text.characters import CharacterTokenizer

V, H = 1027, 256


def make_run(folder: Path) -> None:
    """Create a run directory of the size of the lyrics recipes: H = 256, V = 1,027."""
    tokenizer = CharacterTokenizer("".join(chr(0x4E00 + i) for i in range(V)), chr(0x4E00))
    settings = Settings(model=ModelSettings(hidden_size=H, embedding=0, dropout=0.0))
    model = LanguageModel(settings.model, V)
    run = RunDirectory.create(folder, settings, tokenizer, {})
    run.save(Checkpoint(1, {"weights": numpy_weights(model)}, {}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        make_run(Path(folder) / "run")
        generate = [sys.executable, "-m", "headgate", "generate", f"{folder}/run", "--prefix", chr(0x4E01)]
        generate += ["--greedy", "--length", "50"]
        loaded = "import sys; from headgate.cli.main import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
        subprocess.run([sys.executable, "-c", loaded, *generate[3:]], check=True, stdout=subprocess.DEVNULL)
        commands = {
            "python": [sys.executable, "-c", "pass"],
            "python, numpy": [sys.executable, "-c", "import numpy"],
            "headgate generate": generate,
            "python, torch": [sys.executable, "-c", "import torch"],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(options.rounds + 1):
            for name, command in commands.items():
                began = time.perf_counter()
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    for name, value in medians.items():
        print(f"{name:<20} {value:6.3f} s")
    verdict = "PASS" if medians["headgate generate"] < 0.4 else "FAIL"
    print(f"{verdict}: generate starts and writes 50 characters in under 0.4 s, without torch")
    print(json.dumps(medians))


if __name__ == "__main__":
    main()
