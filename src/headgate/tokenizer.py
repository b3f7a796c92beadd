"""Text to ids and back: characters and bytes. Saved as JSON; the same text gives the same vocabulary on every run."""

import codecs
import json
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Protocol

import numpy as np

from headgate.errors import InputError, nearest

UNKNOWN = "\N{REPLACEMENT CHARACTER}"  # how the id of an unknown character is written when it is decoded


class Tokenizer(Protocol):
    """What the rest of the package needs of a tokenizer. Ids are int32, from 0 to ``vocabulary_size - 1``."""

    @property
    def vocabulary_size(self) -> int: ...

    @property
    def unwritable(self) -> list[int]:
        """Ids that stand for no text and are never to be drawn when a model writes."""
        ...

    def encode(self, text: str) -> np.ndarray:
        """Ids of ``text``, int32, shape (tokens,)."""
        ...

    def decode(self, ids: Iterable[int]) -> str: ...

    def unknown(self, text: str) -> list[str]:
        """The characters of ``text`` that the vocabulary lacks, each once, in order of appearance."""
        ...

    def writer(self) -> Callable[[int | None], str]:
        """A function that takes ids one at a time and returns the text each completes; None flushes the rest."""
        ...

    def to_json(self) -> dict[str, Any]: ...


class CharacterTokenizer:
    """One id a character, in the order of the code points.

    ``<unk>``, where the vocabulary has it, is id 0: every character seen less often than ``min_frequency``, or never,
    is read as it. Without it (``unknown=False``, the textbook's lyrics experiment), a character that the vocabulary
    lacks is read as a space, or where there is no space as the most frequent character.

    >>> tokenizer = CharacterTokenizer.from_text("banana")
    >>> tokenizer.characters, tokenizer.encode("nab!").tolist()
    ('abn', [3, 1, 2, 0])
    >>> tokenizer.decode([2, 1, 3])
    'ban'
    """

    def __init__(self, characters: str, replacement: str | None = None) -> None:
        """``characters`` sorted and distinct; ``replacement`` None: ``<unk>`` is id 0, else one of them stands in."""
        if list(characters) != sorted(set(characters)):
            raise InputError("a character vocabulary must be sorted and without repetition")
        if replacement is not None and (len(replacement) != 1 or replacement not in characters):
            raise InputError(f"the replacement {replacement!r} must be one character of the vocabulary")
        self.characters = characters
        self.replacement = replacement
        self._offset = 1 if replacement is None else 0
        self._points = np.array([ord(c) for c in characters], np.uint32)
        self._replacement_id = 0 if replacement is None else characters.index(replacement)

    @classmethod
    def from_text(cls, text: str, *, min_frequency: int = 1, unknown: bool = True) -> "CharacterTokenizer":
        """The vocabulary of ``text``."""
        counts = Counter(text)
        characters = "".join(sorted(c for c, count in counts.items() if count >= min_frequency))
        if not characters:
            raise InputError(
                f"no character of the text occurs {min_frequency} times or more: lower --min-frequency"
                if text
                else "the text is empty: a vocabulary needs at least one character"
            )
        if unknown:
            return cls(characters)
        return cls(characters, " " if " " in characters else max(characters, key=lambda c: counts[c]))

    @property
    def vocabulary_size(self) -> int:
        return len(self.characters) + self._offset

    @property
    def unwritable(self) -> list[int]:
        return [0] if self.replacement is None else []

    def encode(self, text: str) -> np.ndarray:
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        places = np.searchsorted(self._points, points).clip(max=len(self._points) - 1)
        known = self._points[places] == points
        return np.where(known, places + self._offset, self._replacement_id).astype(np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(UNKNOWN if i < self._offset else self.characters[i - self._offset] for i in ids)

    def unknown(self, text: str) -> list[str]:
        return [c for c in dict.fromkeys(text) if c not in self.characters]

    def writer(self) -> Callable[[int | None], str]:
        return lambda i: "" if i is None else self.decode([i])

    def to_json(self) -> dict[str, Any]:
        return {"type": "characters", "replacement": self.replacement, "characters": self.characters}


class ByteTokenizer:
    """One id a byte of the UTF-8 text: 256 ids, nothing unknown.

    >>> ByteTokenizer().encode("é").tolist(), ByteTokenizer().decode([195, 169])
    ([195, 169], 'é')
    """

    vocabulary_size = 256
    unwritable: ClassVar[list[int]] = []

    def encode(self, text: str) -> np.ndarray:
        try:
            raw = text.encode("utf-8", "surrogateescape")  # bytes that are no UTF-8 are themselves
        except UnicodeEncodeError:
            raw = text.encode("utf-8", "surrogatepass")
        return np.frombuffer(raw, np.uint8).astype(np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        return bytes(list(ids)).decode("utf-8", "replace")  # an array's own bytes would be something else

    def unknown(self, text: str) -> list[str]:
        return []

    def writer(self) -> Callable[[int | None], str]:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")  # holds back half a character
        return lambda i: decoder.decode(b"", True) if i is None else decoder.decode(bytes([i]))

    def to_json(self) -> dict[str, Any]:
        return {"type": "bytes"}


def from_json(text: str, where: str = "tokenizer.json") -> Tokenizer:
    """The tokenizer that ``to_json`` described. Raises InputError that names ``where`` for anything else."""
    try:
        description = json.loads(text)
        kind = description["type"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{where} does not describe a tokenizer ({error!r}): restore the file") from None
    if kind == "bytes":
        return ByteTokenizer()
    if kind != "characters":
        raise InputError(f"{where} names an unknown tokenizer {kind!r}: {nearest(str(kind), TOKENIZERS)}")
    characters, replacement = description.get("characters"), description.get("replacement")
    if not isinstance(characters, str) or not characters or not isinstance(replacement, str | None):
        raise InputError(f"{where} lacks the list of characters: restore the file")
    try:
        return CharacterTokenizer(characters, replacement)
    except InputError as error:
        raise InputError(f"{where}: {error}: restore the file") from None


TOKENIZERS = ("characters", "bytes")
