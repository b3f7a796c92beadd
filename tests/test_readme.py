"""Fenced blocks of README and tutorial run in order in an empty folder, and are the same in both languages."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from headgate.cli.main import _parser
from tests.conftest import ROOT

PAGES = ["README.md", "README.zh.md", "docs/tutorial.md", "docs/tutorial.zh.md"]


def blocks(page: str) -> list[tuple[str, str]]:
    """Return the fenced blocks of a page as (language, code)."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", (ROOT / page).read_text("utf-8"), re.MULTILINE | re.DOTALL)


def run_blocks(page: str, folder: Path, data_dir: Path | None) -> int:
    environment = {
        **os.environ,
        "HOME": str(folder),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    if data_dir:
        environment["HEADGATE_DATA"] = str(data_dir)
    ran = 0
    for language, code in blocks(page):
        if language == "sh" and code.startswith("make "):
            command = ["sh", "-ec", "".join(f"make -n -C {ROOT} {line.split()[1]}\n" for line in code.splitlines())]
        elif language == "sh":  # the experiments take minutes each, so they are only started
            command = ["sh", "-ec", re.sub(r"--recipe \S+", r"\g<0> --epochs 2", code)]
        elif language == "python":
            command = [sys.executable, "-W", "error", "-c", code]
        else:
            assert language in ("text", "toml"), f"a block of {page} is {language}: sh, python, text and toml are known"
            continue
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{page}:\n{code}\n{done.stdout}\n{done.stderr}"
        ran += 1
    return ran


@pytest.mark.slow
def test_readme(tmp_path: Path) -> None:
    assert run_blocks("README.md", tmp_path, None) >= 5


@pytest.mark.slow
def test_tutorial(tmp_path: Path, data_dir: Path) -> None:
    assert run_blocks("docs/tutorial.md", tmp_path, data_dir) >= 5


@pytest.mark.parametrize(("english", "chinese"), list(zip(PAGES[::2], PAGES[1::2], strict=True)))
def test_both_languages_show_the_same_code(english: str, chinese: str) -> None:
    def essence(page: str) -> list[str]:
        return [re.sub(r"\s*#.*", "", code) for language, code in blocks(page) if language in ("sh", "python", "toml")]

    assert essence(english) == essence(chinese)


@pytest.mark.slow
def test_estimators(tmp_path: Path) -> None:
    assert run_blocks("docs/estimators.md", tmp_path, None) >= 6


@pytest.mark.parametrize(
    ("page", "some", "of_others"),
    [
        ("sweeps.md", {"--hidden-size", "--learning-rate", "--resume", "--json", "--tensorboard"}, {"--logdir"}),
        (
            "scaling.md",
            {"--out", "--documents", "--vocab-size", "--min-frequency", "--head", "--device", "--accumulate"},
            {"--nnodes", "--nproc-per-node", "--max-restarts", "--rdzv-backend", "--rdzv-id", "--rdzv-endpoint",
             "--rdzv-conf", "--local-addr", "--full-disk"},
        ),
    ],
)  # fmt: skip
def test_flags_in_pages_exist(page: str, some: set[str], of_others: set[str]) -> None:
    """The commands take minutes to run, so only their flags are checked against those of headgate and named others."""
    text = (ROOT / "docs" / page).read_text("utf-8")
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text)) - of_others
    commands = _parser()[1]
    asked = ("train", "runs", "compare", "prepare")
    known = {flag for name in asked for action in commands[name]._actions for flag in action.option_strings}
    assert some <= named <= known


def test_files_named_in_pages_exist() -> None:
    for page in [
        *PAGES,
        "docs/architecture.md",
        "docs/estimators.md",
        "docs/benchmarks.md",
        "docs/sweeps.md",
        "docs/scaling.md",
    ]:
        text = (ROOT / page).read_text("utf-8")
        for target in re.findall(r"\]\((?!http)([^)#]+)", text):
            assert ((ROOT / page).parent / target).exists(), f"{page} points to {target}"
