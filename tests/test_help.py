"""The screens that explain the command line: they fit a terminal, and what they show works."""

import shlex

import pytest

from headgate.cli import EXAMPLES, WELCOME, _parser, main

COMMANDS = sorted(_parser()[1])


def test_headgate_alone_welcomes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([])
    assert left.value.code in (0, None)
    shown = capsys.readouterr().out
    assert shown == WELCOME
    tried = [line.split()[1] for line in shown.splitlines() if line.startswith("  headgate ")]
    assert len(tried) == 3
    assert set(tried) <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_begins_with_examples_and_fits_80_columns(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([name, "--help"])
    shown = capsys.readouterr().out
    assert max(len(line) for line in shown.splitlines()) <= 80
    assert "Examples:\n  headgate " in shown
    assert shown.index("Examples:") < shown.index("options:")


@pytest.mark.parametrize(("name", "example"), [(n, e) for n, examples in EXAMPLES.items() for e in examples])
def test_examples_are_commands_that_can_be_given(name: str, example: str) -> None:
    parser, commands = _parser()
    words = shlex.split(example)
    assert words[0] == name or name == "prepare"
    assert parser.parse_args(words).program == f"headgate {words[0]}"
    assert set(EXAMPLES) <= set(commands)


def test_version_has_a_short_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["-V"])
    assert capsys.readouterr().out.startswith("headgate ")
