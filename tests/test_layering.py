"""The floors of the package: a module imports only from lower floors, and the runtime's import no torch."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

SOURCE = ROOT / "src" / "headgate"

# Also drawn in docs/architecture.md. False: must work where torch is not installed.
FLOORS: dict[str, tuple[int, bool]] = {
    "errors": (0, False),
    "equations": (0, True),
    "setting": (0, False),
    "configuration": (1, False),
    "words": (1, False),
    "subwords": (1, False),
    "tokenizer": (2, False),
    "sampling": (1, False),
    "adaptive": (2, False),
    "download": (1, False),
    "archives": (1, False),
    "free_memory": (0, False),
    "files": (1, False),
    "arguments": (1, False),
    "conformal": (1, False),
    "capacity": (2, False),
    "console": (1, False),
    "estimator_parameters": (1, False),
    "table": (3, False),
    "table_file": (1, False),
    "dates": (2, False),
    "sequences": (1, False),
    "series": (1, False),
    "kernels": (1, True),
    "kernels.aten": (1, True),
    "kernels.cpu": (1, True),
    "kernels.native": (0, False),
    "kernels.memory": (0, True),
    "kernels.dense": (0, True),
    "kernels.watch": (0, True),
    "kernels.head": (1, True),
    "ids": (1, False),
    "lock": (1, False),
    "machine": (0, False),
    "device": (1, True),
    "sources": (2, False),
    "prepared": (3, False),
    "corpus": (4, False),
    "preparation": (5, False),
    "run_directory": (3, False),
    "saved": (2, False),
    "recipe": (2, False),
    "batches": (2, False),
    "evaluation": (2, False),
    "functional": (2, True),
    "runtime": (4, False),
    "parameters": (1, True),
    "layer": (3, True),
    "cell": (3, True),
    "curve": (3, True),
    "pictures": (2, False),
    "report": (4, True),
    "events": (1, True),
    "language_model": (4, True),
    "sequence_model": (4, True),
    "fitting": (5, True),
    "estimators": (6, True),
    "forecast_chart": (3, False),
    "forecasting": (1, False),
    "forecaster": (7, True),
    "optimization": (2, True),
    "processes": (2, True),
    "training_state": (5, True),
    "training": (6, True),
    "commands": (8, False),
    "commands.invocation": (7, False),
    "noise": (6, True),
    "commands.help": (7, False),
    "commands.train": (8, False),
    "commands.generate": (8, False),
    "commands.fit": (8, False),
    "commands.runs": (8, False),
    "overview": (4, False),
    "commands.prepare": (8, False),
    "commands.predict": (8, False),
    "commands.evaluate": (8, False),
    "commands.show": (8, False),
    "cli": (9, False),
    "__main__": (10, False),
    "__init__": (-1, False),  # the version; public names are looked up when they are used
}


def modules() -> list[tuple[str, ast.Module]]:
    names = {p: ".".join(p.relative_to(SOURCE).with_suffix("").parts) for p in sorted(SOURCE.rglob("*.py"))}
    return [(name.removesuffix(".__init__"), ast.parse(path.read_text("utf-8"))) for path, name in names.items()]


def imports(tree: ast.Module, *, when_loaded: bool) -> Iterator[str]:
    """Names imported anywhere in a module, or only those imported when it is loaded."""
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if typing_only or (when_loaded and isinstance(node, ast.FunctionDef)):
            skipped.update(ast.walk(node))
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def target(name: str) -> str | None:
    """The module of this package that an import loads: headgate.batches.Batches -> batches."""
    if name == "headgate" or not name.startswith("headgate."):
        return "__init__" if name == "headgate" else None
    parts = name.split(".")[1:]
    while parts and ".".join(parts) not in FLOORS:
        parts.pop()
    return ".".join(parts) or "__init__"


def test_every_file_is_in_the_table() -> None:
    assert {name for name, _ in modules()} == set(FLOORS)


@pytest.mark.parametrize(("name", "tree"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_go_down(name: str, tree: ast.Module) -> None:
    floor, _ = FLOORS[name]
    for imported in imports(tree, when_loaded=False):
        other = target(imported)
        if other is not None:
            assert FLOORS[other][0] < floor, f"{name} (floor {floor}) imports {other} (floor {FLOORS[other][0]})"


@pytest.mark.parametrize(("name", "tree"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_no_torch_where_the_runtime_stands(name: str, tree: ast.Module) -> None:
    if not FLOORS[name][1]:
        assert "torch" not in {imported.split(".")[0] for imported in imports(tree, when_loaded=True)}


@pytest.mark.parametrize(("name", "tree"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_says_what_it_is_for(name: str, tree: ast.Module) -> None:
    assert ast.get_docstring(tree), f"{name} does not say in its first line what it is for"


def test_architecture_page_has_the_same_table() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    rows = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| ") and ".py`" in line]
    listed = {
        cells[1].strip().strip("`").removesuffix(".py").replace("/", "."): (int(cells[0]), "torch" in cells[2])
        for cells in rows
    }
    expected = {k: v for k, v in FLOORS.items() if k not in ("__init__", "__main__", "kernels", "commands")}
    assert listed == expected


def test_the_checks_see_a_violation() -> None:
    tree = ast.parse("import torch\ndef f():\n    from headgate.training import train\n")
    assert list(imports(tree, when_loaded=True)) == ["torch"]
    assert target("headgate.training.train") == "training"


def test_no_shared_drawer() -> None:
    assert not {p.name for p in Path(SOURCE).rglob("*.py")} & {"utils.py", "common.py", "base.py", "helpers.py"}
