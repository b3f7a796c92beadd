"""The rooms of the package: a room imports only rooms above it, and nothing above the torch line imports torch."""

import ast
import functools
import graphlib
from collections.abc import Mapping

import pytest

from tests.conftest import ROOT

SOURCE = ROOT / "src" / "headgate"

# Rooms and single files, from the ground up. Those above the line work where torch is not installed.
WITHOUT_TORCH = (
    "errors", "machine", "console", "settings", "storage", "native",
    "text", "sequences", "runs", "runtime", "pictures",
)  # fmt: skip
WITH_TORCH = ("equations", "kernels", "layers", "models", "training", "estimators", "cli")
ROOMS = WITHOUT_TORCH + WITH_TORCH
ENTRANCE = ("__init__", "__main__")  # public names, looked up when they are used; the program


def sources() -> dict[str, str]:
    """The package's files, as dotted names without the package's, and their texts."""
    names = {path: ".".join(path.relative_to(SOURCE).with_suffix("").parts) for path in sorted(SOURCE.rglob("*.py"))}
    return {name: path.read_text("utf-8") for path, name in names.items()}


@functools.cache
def imports(text: str) -> list[tuple[str, bool]]:
    """Everything that a file imports, dotted, and whether that happens inside a function or for type checkers only."""
    tree = ast.parse(text)
    late: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        ):
            late.update(ast.walk(node))
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [(alias.name, node in late) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            names += [(f"{module}.{alias.name}", node in late) for alias in node.names]
    return names


def problems(files: Mapping[str, str]) -> list[str]:
    """Everything that breaks the rule, a sentence each."""
    wrong = []
    within: dict[str, set[str]] = {name: set() for name in files}
    for name, text in files.items():
        room = name.split(".")[0]
        if name in ENTRANCE:
            continue
        if room not in ROOMS:
            wrong.append(f"{name} is in no room")
            continue
        for imported, late in imports(text):
            first, *rest = imported.split(".")
            if first == "" or (first == "torch" and room in WITHOUT_TORCH):
                wrong.append(f"{name} imports {imported}")
            if first != "headgate" or rest == ["__version__"]:
                continue
            other = rest[0] if rest else ""
            if room == "cli":
                if other not in WITHOUT_TORCH and other != "cli" and not late:
                    wrong.append(f"{name} imports {imported} when it is loaded")
            elif other not in ROOMS or ROOMS.index(other) > ROOMS.index(room):
                wrong.append(f"{name} imports {imported}")
            if other == room:
                within[name].add(next((n for n in (".".join(rest), ".".join(rest[:-1])) if n in files), name))
    try:
        graphlib.TopologicalSorter(within).prepare()
    except graphlib.CycleError as error:
        wrong.append(f"a circle: {' -> '.join(error.args[1])}")
    return wrong


def test_a_room_imports_only_rooms_above_it() -> None:
    assert problems(sources()) == []


@pytest.mark.parametrize(
    ("name", "line", "problem"),
    [
        ("text.words", "from headgate.runs import overview", "text.words imports headgate.runs.overview"),
        ("layers.gru", "def f():\n    from headgate import GRUForecaster", "layers.gru imports headgate.GRUForecaster"),
        ("runtime.runtime", "def f():\n    import torch.nn", "runtime.runtime imports torch.nn"),
        ("runs.overview", "if TYPE_CHECKING:\n    from torch import Tensor", "runs.overview imports torch.Tensor"),
        ("cli.runs", "from headgate.training import loop", "cli.runs imports headgate.training.loop when it is loaded"),
        ("text.words", "import headgate.text.characters", "a circle: text.words -> text.characters -> text.words"),
        ("text.words", "from headgate.training import loop", "text.words imports headgate.training.loop"),
        ("errors", "from headgate.errors import InputError", "a circle: errors -> errors"),
        ("storage.files", "from . import lock", "storage.files imports ..lock"),
        ("drawer", "", "drawer is in no room"),
    ],
)  # fmt: skip
def test_the_rule_sees(name: str, line: str, problem: str) -> None:
    files = sources()
    files[name] = f"{files.get(name, '')}\n{line}\n"
    found = problems(files)
    assert len(found) == 1
    if "circle" in problem:  # which begins anywhere
        assert set(found[0].split()) == set(problem.split())
    else:
        assert found == [problem]


def test_each_file_says_what_it_is_for() -> None:
    assert [name for name, text in sources().items() if not ast.get_docstring(ast.parse(text))] == []


def test_no_shared_drawer() -> None:
    assert not {path.stem for path in SOURCE.rglob("*.py")} & {"utils", "common", "base", "helpers"}


def rooms() -> dict[str, str]:
    """Each room or single file, and the first line of its docstring."""
    texts = sources()
    return {
        f"{room}/" if f"{room}.__init__" in texts else f"{room}.py": str(
            ast.get_docstring(ast.parse(texts.get(f"{room}.__init__") or texts[room]))
        ).splitlines()[0]
        for room in ROOMS
    }


@pytest.mark.parametrize("page", ["README.md", "README.zh.md"])
def test_readme_maps_the_rooms(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    block = text[text.index("src/headgate/\n") :].split("```")[0].split("\nnative/ ")[0]
    rows = [line.split(None, 1) for line in block.splitlines()[1:] if not line.startswith("  ---")]
    expected = rooms()
    assert [name for name, _ in rows] == list(expected)
    if page == "README.md":
        assert {name: f"{line}." for name, line in rows} == expected
