"""Recipes: the settings of a published experiment, or of ours, with the numbers that were published for it."""

import math
import tomllib
import typing
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from headgate.errors import InputError, suggest
from headgate.settings.field import NAMES
from headgate.settings.run import SECTIONS, Settings, from_tables


@dataclass(frozen=True)
class Published:
    """A number from the book: training perplexity after an epoch, for one variant of the GRU."""

    epoch: int
    perplexity: str  # as printed: "1.44", "1.0 to 1.3"
    reset: str

    @property
    def bounds(self) -> tuple[float, float]:
        low, _, high = self.perplexity.partition(" to ")
        return float(low), float(high or low)


@dataclass(frozen=True)
class Noise:
    """The sizes of a fit to random numbers."""

    samples: int
    steps: int
    features: int
    hidden_size: int
    epochs: int
    learning_rate: float


@dataclass(frozen=True)
class Recipe:
    """A named experiment: a language model, or, with ``noise``, a sequence model fitted to that."""

    name: str
    description: str
    source: str
    settings: Settings
    published: tuple[Published, ...]
    noise: Noise | None = None

    def published_for(self, settings: Settings) -> tuple[Published, ...]:
        """The published numbers that a run with ``settings`` can be held against."""
        return tuple(p for p in self.published if p.reset == settings.model.reset)


def names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(f.name.removesuffix(".toml") for f in _folder().iterdir() if f.name.endswith(".toml"))


def load(name: str) -> Recipe:
    """A recipe of the package by name, or any TOML file by path. Raises InputError for what is not one."""
    if name in names():
        return parse((_folder() / f"{name}.toml").read_text("utf-8"), name)
    path = Path(name)
    if path.suffix == ".toml" and path.is_file():
        try:
            return parse(path.read_text("utf-8"), name)
        except UnicodeDecodeError as error:
            raise InputError(f"recipe {name} is no TOML: byte {error.start} is not UTF-8") from None
    raise InputError(f"there is no recipe {name}: {suggest(name, names())}; the path of a .toml file is one too")


def parse(text: str, name: str) -> Recipe:
    """Read the TOML of a recipe; unknown keys and impossible values raise InputError that names them."""
    try:
        if any(line.count(".") > 200 for line in text.splitlines()):
            raise ValueError("a key has too many parts")  # the parser's memory grows with their square
        tables = tomllib.loads(text)
        repr(tables)  # what cannot be shown, such as whole numbers of 5000 digits, cannot be refused by name below
    except (ValueError, RecursionError) as error:
        raise InputError(f"recipe {name} is no TOML: {error}") from None
    known = {"description", "source", "published", "noise", *SECTIONS}
    wrong = [f"unknown key {k!r}: {suggest(k, known)}" for k in tables if k not in known]
    if wrong:
        raise InputError(f"recipe {name}: {'; '.join(wrong)}")
    settings = from_tables(tables, f"recipe {name}")
    rows = tables.get("published", [])
    if not isinstance(rows, list):
        raise InputError(f"recipe {name}: published must be a list of tables ([[published]]), got {rows!r}")
    return Recipe(
        name,
        str(tables.get("description", "")),
        str(tables.get("source", "")),
        settings,
        tuple(_published(row, settings, name) for row in rows),
        _noise(tables["noise"], name) if "noise" in tables else None,
    )


def _published(row: Any, settings: Settings, name: str) -> Published:
    try:
        published = Published(**{"reset": settings.model.reset, **row, "perplexity": str(row["perplexity"])})
        valid = type(published.epoch) is int and published.reset in ("after", "before") and all(published.bounds)
    except (KeyError, TypeError, ValueError):  # other keys, no table, no number
        valid = False
    if not valid:
        raise InputError(
            f"recipe {name}: a published entry needs an epoch and a perplexity ('1.44' or '1.0 to 1.3'), got {row!r}; "
            "beside them it may have a reset, after or before"
        )
    return published


def _noise(table: Any, name: str) -> Noise:
    kinds = typing.get_type_hints(Noise)
    if not isinstance(table, dict) or table.keys() != kinds.keys():
        raise InputError(f"recipe {name}: [noise] needs {', '.join(kinds)}, got {table!r}")
    for key, kind in kinds.items():
        if type(table[key]) is not kind or not 0 < table[key] < math.inf:
            raise InputError(f"recipe {name}: {key} must be {NAMES[kind]} above 0, got {table[key]!r}")
    return Noise(**table)


def _folder() -> Any:
    return resources.files(__package__) / "recipes"
