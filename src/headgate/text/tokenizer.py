"""Tokenizers: characters, bytes, words, subwords, and any of them with a document separator.

They are saved as JSON; the same text gives the same vocabulary on every run.
"""

import json
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np

from headgate.errors import InputError, suggest
from headgate.text import subwords
from headgate.text.characters import ByteTokenizer, CharacterTokenizer
from headgate.text.words import WordTokenizer


class Tokenizer(Protocol):
    """Conversion between text and ids, which are int32, from 0 to ``vocabulary_size - 1``."""

    @property
    def vocabulary_size(self) -> int: ...

    @property
    def special_ids(self) -> list[int]:
        """The ids that represent no text and must never be drawn in generation."""
        ...

    @property
    def document_id(self) -> int | None:
        """The id that precedes each document, or None if the vocabulary has none."""
        ...

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of ``text``, int32, shape (tokens,). A text of spaces alone may have none."""
        ...

    def decode(self, ids: Iterable[int]) -> str: ...

    def out_of_vocabulary(self, text: str) -> list[str]:
        """Return the characters or words of ``text`` not in the vocabulary, each once, in order of appearance."""
        ...

    def stream_decoder(self, after: str = "") -> Callable[[int | None], str]:
        """Return a function that takes ids one at a time and returns the text each completes; None flushes the rest.

        ``after`` is the preceding text: it decides whether a space comes before the first word. If it is empty, the
        joined pieces are equal to ``decode``.
        """
        ...

    def to_json(self) -> dict[str, Any]: ...


class DocumentTokenizer:
    """Another tokenizer with one more id, the last: ``document_id``, which precedes each document.

    ``encode`` never returns it: the code that joins documents inserts it. It is never drawn in generation, and decodes
    to nothing.

    >>> tokenizer = DocumentTokenizer(ByteTokenizer())
    >>> tokenizer.document_id, tokenizer.decode([256, 97, 256, 98])
    (256, 'ab')
    """

    def __init__(self, inner: Tokenizer) -> None:
        if inner.document_id is not None:
            raise InputError("a documents tokenizer cannot contain another one")
        self.inner = inner

    @property
    def vocabulary_size(self) -> int:
        return self.inner.vocabulary_size + 1

    @property
    def document_id(self) -> int:
        return self.inner.vocabulary_size

    @property
    def special_ids(self) -> list[int]:
        return [*self.inner.special_ids, self.document_id]

    def encode(self, text: str) -> np.ndarray:
        return self.inner.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        return self.inner.decode(i for i in ids if i != self.document_id)

    def out_of_vocabulary(self, text: str) -> list[str]:
        return self.inner.out_of_vocabulary(text)

    def stream_decoder(self, after: str = "") -> Callable[[int | None], str]:
        write, document_id = self.inner.stream_decoder(after), self.document_id
        return lambda i: "" if i == document_id else write(i)

    def to_json(self) -> dict[str, Any]:
        return {"type": "documents", "of": self.inner.to_json()}


def from_json(text: str, where: str = "tokenizer.json") -> Tokenizer:
    """Restore the tokenizer that ``to_json`` described. Raises InputError that names ``where`` for anything else."""
    try:
        description = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} does not describe a tokenizer ({error!r}): restore the file") from None
    return _from_json(description, where)


def _from_json(description: Any, where: str) -> Tokenizer:
    if not isinstance(description, dict) or not {"type", "model"} & description.keys():
        raise InputError(f"{where} does not describe a tokenizer (it has no type): restore the file")
    kind = "subwords" if "model" in description else description["type"]  # the library's JSON has no type
    if not isinstance(kind, str) or kind not in TOKENIZERS:
        raise InputError(f"{where} names an unknown tokenizer {kind!r}: {suggest(str(kind), TOKENIZERS)}")
    if kind == "bytes":
        return ByteTokenizer()
    if kind == "subwords":
        subwords.library()  # here, because a missing library is not an error of the file
    inner = _from_json(description.get("of"), where) if kind == "documents" else None
    try:
        if inner is not None:
            return DocumentTokenizer(inner)
        if kind == "subwords":
            return subwords.SubwordTokenizer.from_description(description)
        if kind == "words":
            return WordTokenizer.from_description(description)
        characters, replacement = description.get("characters"), description.get("replacement")
        if not isinstance(characters, str) or not characters or not isinstance(replacement, str | None):
            raise InputError("the list of characters is missing or damaged")
        return CharacterTokenizer(characters, replacement)
    except InputError as error:
        raise InputError(f"{where}: {error}: restore the file") from None


TOKENIZERS = ("characters", "bytes", "words", "subwords", "documents")
