#!/usr/bin/env -S python
# /// script
# dependencies = ["nox>=2025.2.9"]
# ///
"""Sessions for nox: the checks and the tests, each in its own environment."""

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"


def _install(session: nox.Session) -> None:
    groups = nox.project.dependency_groups(nox.project.load_toml("pyproject.toml"), "test")
    session.install("-c", "constraints.txt", "-e", ".[all]", *groups)


@nox.session(default=True)
def check(session: nox.Session) -> None:
    """Run the formatter, the linter, the type checker and the rule of the rooms."""
    _install(session)
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("mypy")
    session.run("pytest", "-q", "tests/test_rooms.py")


@nox.session(default=True)
def tests(session: nox.Session) -> None:
    """Run the tests; ``nox -s tests -- -m slow`` runs the slow ones."""
    _install(session)
    session.run("pytest", "-n", "2", "--dist", "worksteal", *(session.posargs or ("-m", "not slow")))


if __name__ == "__main__":
    nox.main()
