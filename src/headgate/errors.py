"""InputError: an error that the user can fix.

The command line prints its message, one sentence, and exits with 2.
"""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """What the user gave cannot work. The message is one sentence: what was expected, what came, what to do."""


def one_line(error: Exception) -> str:
    """What an error of another program says, without line breaks.

    >>> one_line(RuntimeError("Missing:\\n\\tbias. "))
    'Missing: bias.'
    """
    return " ".join(str(error).split())


def similar(word: str, known: Iterable[str]) -> list[str]:
    """The known words, three at most, that begin with ``word``; where none does, those spelt much like it.

    >>> similar("--temp", ["--seed", "--temperature"]), similar("trian", ["prepare", "train"])
    (['--temperature'], ['train'])
    """
    known = sorted(known)
    beginning = [k for k in known if word and k.startswith(word)] if word not in known else []
    return beginning[:3] or difflib.get_close_matches(word, known, n=3, cutoff=0.5)


def suggest(word: str, known: Iterable[str]) -> str:
    """Name the known words most like ``word``, as the end of an error message.

    >>> suggest("voyge", ["verses", "voyage"])
    'did you mean voyage?'
    >>> suggest("xyz", ["verses", "voyage"])
    'known: verses, voyage'
    """
    known = list(known)
    close = similar(word, known)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(sorted(known))}"


EXTRAS = {  # what installs a missing module: pip install '.[train]' in a clone
    **dict.fromkeys(("torch", "matplotlib"), "train"),
    **dict.fromkeys(("sklearn", "scipy", "pandas", "pyarrow"), "estimators"),
    "tokenizers": "bpe",
    "tensorboard": "tensorboard",
}


def not_installed(what: str, module: str, extra: str = "") -> str:
    """Say that ``what`` needs a module of EXTRAS, and what installs it: ``extra``, or that module's own.

    >>> not_installed("GRU", "torch")
    "GRU needs torch, which is not installed: run pip install '.[train]' in a clone of headgate"
    """
    extra = extra or EXTRAS[module]
    return f"{what} needs {module}, which is not installed: run pip install '.[{extra}]' in a clone of headgate"
