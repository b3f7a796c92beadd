"""Standard output and error in other encodings or closed, Ctrl-C during imports, and too little memory."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from headgate import console

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and descriptors")

INTERRUPTED = """
import importlib.abc, os, runpy, signal, sys

class Interrupt(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
sys.argv = ["headgate", "recipes"]
runpy.run_module("headgate", run_name="__main__")
"""


def run(*arguments: str, **options) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "headgate", *arguments], capture_output=True, **options)


@pytest.mark.parametrize("module", ["headgate.cli.main", "headgate.cli.show", "headgate.settings.recipe"])
def test_interrupt_while_importing_is_quiet(module: str) -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED.format(module=module)], capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_ignored_interrupt_stays_ignored() -> None:
    """Shells start background jobs with Ctrl-C ignored."""
    code = INTERRUPTED.format(module="headgate.settings.recipe")
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    assert done.returncode == 0
    assert b"lyrics-scratch" in done.stdout


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_commands_work_with_closed_streams(closed: str, tmp_path: Path) -> None:
    code = f"{sys.executable} -m headgate recipes {closed}; echo $?"
    done = subprocess.run(code, shell=True, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "0"
    assert done.stderr == ""
    refused = subprocess.run(code.replace("recipes", "nonsense"), shell=True, capture_output=True, text=True)
    assert refused.stdout == "2\n"


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "ascii", "gbk"])
def test_characters_that_the_encoding_lacks_are_escaped(encoding: str) -> None:
    code = "from headgate import console; console.open_streams(); print('caf\\u00e9 \\u8def \\U0001f600 \\udce9')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding}
    )
    assert done.returncode == 0, done.stderr
    escaped = "caf\u00e9 \u8def \U0001f600 ".encode(encoding, "backslashreplace")
    assert done.stdout == escaped + b"\xe9\n"  # a byte of a file's name is kept


def test_an_error_handler_that_the_user_chose_is_kept() -> None:
    code = "from headgate import console; console.open_streams(); print('\\u8def')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii:replace"}
    )
    assert done.stdout == b"?\n"


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii", "gbk"])
def test_json_stays_json_in_any_encoding(encoding: str) -> None:
    value = {"text": "caf\u00e9 \u8def \U0001f600 \udce9"}
    code = f"from headgate import console; console.open_streams(); console.print_json({value!a})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding}
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.decode(encoding)) == value


def test_json_is_not_escaped_if_the_encoding_allows(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json({"text": "路"})
    assert capsys.readouterr().out == '{"text": "路"}\n'


def test_too_little_memory_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from headgate.cli.main import main
    from headgate.settings import recipe

    def load(name: str) -> None:
        raise MemoryError

    monkeypatch.setattr(recipe, "load", load)
    assert main(["recipes"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("headgate: there is not enough memory: ")
    assert error.count("\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="needs limits of the address space")
@pytest.mark.parametrize("kilobytes", [120_000, 60_000, 40_000])
def test_a_small_address_space_is_one_sentence(kilobytes: int) -> None:
    code = f"ulimit -v {kilobytes}; exec {sys.executable} -m headgate generate nothing"
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("headgate: ")
