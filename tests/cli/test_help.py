"""Help pages and tables: they fit the terminal, their examples work, and only terminals get colours."""

import io
import os
import pty
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from headgate import console
from headgate.cli.help import EXAMPLES, WELCOME, highlighted
from headgate.cli.main import _parser, main
from headgate.runs.run_directory import RunDirectory
from headgate.settings.run import Settings
from headgate.text.characters import CharacterTokenizer
from headgate.training.report import Report

COMMANDS = sorted(_parser()[1])
ESCAPE = re.compile(r"\x1b\[\d+m")


def page(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as left:
        main([*arguments, "--help"])
    assert left.value.code == 0
    return capsys.readouterr().out


def test_headgate_without_arguments_prints_the_welcome(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([])
    assert left.value.code in (0, None)
    shown = capsys.readouterr().out
    assert shown == WELCOME
    tried = [line.split()[1] for line in shown.splitlines() if line.startswith("  headgate ")]
    assert len(tried) == 3
    assert set(tried) <= set(COMMANDS)
    assert max(len(line) for line in shown.splitlines()) <= 80


def test_all_commands_are_listed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = page(capsys=capsys)
    assert {line.split()[0] for line in shown.splitlines() if line.startswith("    ")} == set(COMMANDS)
    assert max(len(line) for line in shown.splitlines()) <= 80


@pytest.mark.parametrize("name", COMMANDS)
def test_help_begins_with_examples_and_fits_the_terminal(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = page(name, capsys=capsys)
    assert max(len(line) for line in shown.splitlines()) <= 80
    assert "Examples:\n  headgate " in shown
    assert shown.index("Examples:") < shown.index("options:")
    monkeypatch.setenv("COLUMNS", "120")
    assert max(len(line) for line in page(name, capsys=capsys).splitlines()) <= 100


def test_common_flags_come_before_rarer_ones(capsys: pytest.CaptureFixture[str]) -> None:
    for command, common, rarer in (
        ("train", ("--epochs N", "--hidden-size N", "--seed N", "--out DIR"), ("--normalize", "--bias", "--clip")),
        ("generate", ("--prefix TEXT", "--length N", "--temperature X", "--seed N"), ("--top-k", "--weights")),
        ("fit", ("--target COLUMN", "--horizon N", "--epochs N", "--out DIR"), ("--frequency", "--clip", "--window")),
    ):
        shown = page(command, capsys=capsys)
        assert max(shown.index(flag) for flag in common) < min(shown.index(f"  {flag}") for flag in rarer)


def test_short_flags_are_those_of_the_long_ones() -> None:
    _, commands = _parser()
    options = commands["train"].parse_args(["-e", "3", "-s", "4", "-o", "here", "-q"])
    assert (options.epochs, options.seed, options.out, options.quiet) == (3, 4, "here", True)
    options = commands["generate"].parse_args(["-p", "a", "-p", "b", "-n", "5", "-t", "0.5", "-s", "1"])
    assert (options.prefix, options.length, options.temperature, options.seed) == (["a", "b"], 5, 0.5, 1)
    options = commands["fit"].parse_args(["x.csv", "--target", "y", "-e", "3", "-s", "4", "-o", "here", "-q"])
    assert (options.epochs, options.seed, options.out, options.quiet) == (3, 4, "here", True)


@pytest.mark.parametrize(("name", "example"), [(n, e) for n, examples in EXAMPLES.items() for e in examples])
def test_examples_can_be_parsed(name: str, example: str) -> None:
    parser, commands = _parser()
    words = shlex.split(example)
    assert words[0] in (name, "train")
    assert parser.parse_args(words).program == f"headgate {words[0]}"
    assert set(EXAMPLES) == set(commands)
    assert 2 <= len(EXAMPLES[name]) <= 3


def test_version_has_a_short_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["-V"])
    assert capsys.readouterr().out.startswith("headgate ")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("variables", "terminal", "pipe"),
    [
        ({}, True, False),
        ({"NO_COLOR": "1"}, False, False),
        ({"NO_COLOR": ""}, True, False),
        ({"TERM": "dumb"}, False, False),
        ({"FORCE_COLOR": "1"}, True, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False, False),
    ],
)
def test_variables_and_terminals_decide_on_colours(
    variables: dict[str, str], terminal: bool, pipe: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "WT_SESSION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (console.coloured(Terminal()), console.coloured(io.StringIO())) == (terminal, pipe)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["train", "--help"], ["trian"], ["runs"]])
def test_no_colours_in_pipes(arguments: list[str], tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "headgate", *arguments], capture_output=True, cwd=tmp_path)
    assert done.stdout + done.stderr
    assert b"\x1b" not in done.stdout + done.stderr


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals")
def test_colours_on_a_terminal() -> None:
    ours, theirs = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")} | {"TERM": "xterm"}
    done = subprocess.Popen([sys.executable, "-m", "headgate"], stdout=theirs, env=environment)
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
    os.close(ours)
    assert done.wait() == 0
    assert b"\x1b[36mheadgate generate voyage\x1b[0m" in shown
    assert ESCAPE.sub("", shown.decode()).replace("\r\n", "\n") == WELCOME


@pytest.mark.parametrize("name", COMMANDS)
def test_colours_change_nothing_else(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    plain = page(name, capsys=capsys)
    coloured = highlighted(plain)
    assert ESCAPE.sub("", coloured) == plain
    assert "\x1b[1mExamples:\x1b[0m\n  \x1b[36mheadgate " in coloured
    marked = [match[1] for match in re.finditer(r"^ +\x1b\[36m([^\s\x1b]+)", coloured, re.MULTILINE)]
    assert all(word == "headgate" or word.startswith("-") or word.isupper() for word in marked)


def test_columns_of_chinese_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("run", "state", "epoch"), ("runs/歌词", "finished", "9/9"), ("runs/a", "未知", "10/10")]
    console.print_table(rows, "<<>")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "runs/歌词  finished    9/9"
    assert lines[2] == "runs/a     未知      10/10"
    assert {console.columns(line) for line in lines} == {console.columns(lines[1])}


def test_tables_are_shortened_only_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [("run", "state"), ("runs/" + "长" * 40, "finished")]
    console.print_table(rows, "<<")
    assert "长" * 40 in capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys, "stdout", Terminal())
    console.print_table(rows, "<<")
    lines = sys.stdout.getvalue().splitlines()
    assert max(map(console.columns, lines)) <= 40
    assert lines[1].endswith("  finished")
    assert "…" in lines[1]


def test_states_are_coloured_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys, "stdout", Terminal())
    console.print_table([("run", "state"), ("a", "damaged")], "<<", {"damaged": "red"})
    assert sys.stdout.getvalue() == "\x1b[1mrun\x1b[0m  \x1b[1mstate\x1b[0m\na    \x1b[31mdamaged\x1b[0m\n"


def test_generated_text_breaks_between_words_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    text = "The boat was below the sluice, and so\nwere we. 分开的时候我们站在水闸边上听雨 end"
    assert console.fitted(text) == text
    monkeypatch.setattr(sys, "stdout", Terminal())
    lines = console.fitted(text).split("\n")
    assert lines == ["The boat was below", "the sluice, and so", "were we. 分开的时候", "我们站在水闸边上听雨", "end"]
    assert console.fitted("x" * 45) == "\n".join(["x" * 20, "x" * 20, "x" * 5])
    assert console.fitted("") == ""


def test_reports_fit_80_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings().replaced(epochs=24)
    run = RunDirectory.create(tmp_path / "run", settings, CharacterTokenizer.from_text("abc"), {})
    report = Report(run)
    report.begin(0, 24 * 122)
    entry = {"epoch": 24, "step": 2928, "perplexity": 1234.5678, "held_out_perplexity": 1234.5678,
             "tokens_per_second": 123456.7, "skipped": 0}  # fmt: skip
    report.entry(entry, end_of_epoch=True)
    report.close()
    [line] = capsys.readouterr().out.splitlines()
    assert line.split()[:5] == ["epoch", "24/24", "step", "2928", "perplexity"]
    assert len(line) <= 80


@pytest.mark.parametrize("name", ["recipes", "corpora"])
def test_lists_fit_80_columns(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([name]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if os.sep not in line]
    assert len(lines) > 5
    assert max(map(console.columns, lines)) <= 80
