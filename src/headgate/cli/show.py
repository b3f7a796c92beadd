"""``headgate recipes``, ``corpora`` and ``info``: what comes with headgate, and which backends run here."""

import argparse
import dataclasses
import os
import platform
import shutil
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from headgate import __version__, console, machine, native
from headgate.console import print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--data-dir", metavar="DIR", help="directory of downloaded corpora (or HEADGATE_DATA)")


def recipes(options: argparse.Namespace) -> int:
    from headgate.settings import recipe

    loaded = [recipe.load(name) for name in recipe.names()]
    if options.json:
        print_json([{**dataclasses.asdict(r), "settings": r.settings.to_dict()} for r in loaded], indent=2)
        return 0
    for r in loaded:
        _entry(r.name, r.description, 22)
        for p in r.published_for(r.settings)[-1:]:
            print(f"{'':<22} published: training perplexity {p.perplexity} after epoch {p.epoch}")
    print("\nrun one: headgate train --recipe NAME")
    return 0


def corpora(options: argparse.Namespace) -> int:
    from headgate.text import catalogue

    data_dir = Path(options.data_dir) if options.data_dir else None
    places = {named: catalogue.locate(named, data_dir=data_dir) for named in catalogue.NAMED.values()}
    if options.json:
        print_json(
            [{**dataclasses.asdict(n), "path": str(path) if path else None} for n, path in places.items()], indent=2
        )
        return 0
    for named, path in places.items():
        _entry(named.name, named.description, 14)
        print(f"{'':<14} {path or 'not on this machine yet: downloaded on first use'}")
    return 0


def info(options: argparse.Namespace) -> int:
    import numpy

    facts: dict[str, Any] = {
        "headgate": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        "numpy": numpy.__version__,
    }
    if find_spec("torch"):
        import torch

        from headgate.layers.functional import BACKENDS

        facts |= {"torch": torch.__version__, "threads": machine.capped(torch.get_num_threads())}
        backends = dict.fromkeys(BACKENDS, "available")
    else:
        missing = "needs torch: pip install '.[train]' in a clone of headgate"
        backends = dict.fromkeys(("equations", "torch", "native"), missing)
    if native.load() is None:
        facts["native"] = backends["native"] = native.MISSING
    else:
        facts["native"] = f"{native.level()} ({native.find()})"
    facts["backends"] = {**backends, "runtime": "available: generate, evaluate --runtime"}
    if options.json:
        print_json(facts, indent=2)
        return 0
    for key, value in facts.items():
        if isinstance(value, dict):
            print("backends, the implementations of the GRU:")
            for name, state in value.items():
                print(f"  {name:<10} {state}")
        else:
            print(f"{key:<12} {value}")
    return 0


def _entry(name: str, text: str, width: int) -> None:
    """Print a name and, in a column of its own, a text wrapped to the width of the terminal."""
    columns = min(shutil.get_terminal_size().columns, 100)
    lines = textwrap.wrap(text, max(columns - width - 1, 20))
    shown = console.painted(name, "bold") if console.coloured(sys.stdout) else name
    print(shown + " " * (width - len(name)), "\n".join((lines[0], *(" " * (width + 1) + line for line in lines[1:]))))
