"""Recipes: the settings of an experiment, with the numbers that were published for it."""

import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from headgate.errors import InputError, suggest
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
class Recipe:
    """A named experiment with a language model."""

    name: str
    description: str
    source: str
    settings: Settings
    published: tuple[Published, ...]

    def published_for(self, settings: Settings) -> tuple[Published, ...]:
        """Return the published numbers that a run with ``settings`` can be compared with."""
        return tuple(p for p in self.published if p.reset == settings.model.reset)


def names() -> list[str]:
    """Return the names of the recipes that come with the package."""
    return sorted(f.name.removesuffix(".toml") for f in _folder().iterdir() if f.name.endswith(".toml"))


def load(name: str) -> Recipe:
    """Load a recipe by its name or by the path of a TOML file; raises InputError if it is not one."""
    if name in names():
        return parse((_folder() / f"{name}.toml").read_text("utf-8"), name)
    path = Path(name)
    if path.suffix == ".toml" and path.is_file():
        try:
            return parse(path.read_text("utf-8"), name)
        except UnicodeDecodeError as error:
            raise InputError(f"recipe {name} is not valid TOML: byte {error.start} is not UTF-8") from None
    raise InputError(f"there is no recipe {name}: {suggest(name, names())}; the path of a .toml file is one too")


def parse(text: str, name: str) -> Recipe:
    """Parse the TOML of a recipe; raises InputError that names each unknown key and invalid value."""
    try:
        tables = tomllib.loads(text)
        repr(tables)  # fails for integers of over 4,300 digits, which no message below could show
    except (ValueError, RecursionError) as error:
        raise InputError(f"recipe {name} is not valid TOML: {error}") from None
    known = {"description", "source", "published", *SECTIONS}
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
    )


def _published(row: Any, settings: Settings, name: str) -> Published:
    try:
        published = Published(**{"reset": settings.model.reset, **row, "perplexity": str(row["perplexity"])})
        valid = type(published.epoch) is int and published.reset in ("after", "before") and all(published.bounds)
    except (KeyError, TypeError, ValueError):  # wrong keys, not a table, not a number
        valid = False
    if not valid:
        raise InputError(
            f"recipe {name}: a published entry needs an epoch and a perplexity ('1.44' or '1.0 to 1.3'), got {row!r}; "
            "it may also have a reset, after or before"
        )
    return published


def _folder() -> Any:
    return resources.files(__package__) / "recipes"
