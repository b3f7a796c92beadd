"""InputError: an error that the user can fix."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """An error that the user can fix, such as an invalid setting or a damaged file.

    Notes
    -----
    The message is one sentence: what was expected, what came, what to do. The command line prints it without a
    traceback and exits with status 2.

    Examples
    --------
    >>> from headgate import Settings
    >>> Settings().replaced(hidden_size=0)
    Traceback (most recent call last):
        ...
    headgate.errors.InputError: hidden_size must be at least 1 and finite, got 0
    """


def one_line(error: Exception) -> str:
    """Return the message of another library's error without line breaks.

    >>> one_line(RuntimeError("Missing:\\n\\tbias. "))
    'Missing: bias.'
    """
    return " ".join(str(error).split())


def similar(word: str, known: Iterable[str]) -> list[str]:
    """Return at most three known words that begin with ``word``, or, if none does, that are spelt like it.

    >>> similar("--temp", ["--seed", "--temperature"]), similar("trian", ["prepare", "train"])
    (['--temperature'], ['train'])
    """
    known = sorted(known)
    completions = [k for k in known if word and k.startswith(word)] if word not in known else []
    return completions[:3] or difflib.get_close_matches(word, known, n=3, cutoff=0.5)


def suggest(word: str, known: Iterable[str]) -> str:
    """Return the end of an error message, which names the known words most like ``word``.

    >>> suggest("voyge", ["verses", "voyage"])
    'did you mean voyage?'
    >>> suggest("xyz", ["verses", "voyage"])
    'known: verses, voyage'
    """
    known = list(known)
    close = similar(word, known)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(sorted(known))}"


EXTRAS = {  # the extra that installs a module: pip install '.[train]' in a clone
    **dict.fromkeys(("torch", "matplotlib"), "train"),
    **dict.fromkeys(("sklearn", "scipy", "pandas", "pyarrow"), "estimators"),
    "tokenizers": "bpe",
    "tensorboard": "tensorboard",
}


def not_installed(what: str, module: str, extra: str = "") -> str:
    """Return the message that ``what`` needs a module of EXTRAS, which ``extra``, or the module's own, installs.

    >>> not_installed("GRU", "torch")
    "GRU needs torch, which is not installed: run pip install '.[train]' in a clone of headgate"
    """
    extra = extra or EXTRAS[module]
    return f"{what} needs {module}, which is not installed: run pip install '.[{extra}]' in a clone of headgate"
