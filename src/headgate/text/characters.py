"""The tokenizers without a learned vocabulary of longer pieces: one id per character, or per byte."""

import codecs
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import numpy as np

from headgate.errors import InputError
from headgate.text.words import UNKNOWN, check_characters

_POINTS = 0x110000  # the number of code points
_BLOCK = 1 << 16  # characters looked up at once, few enough for the cache


class CharacterTokenizer:
    """One id per character, in the order of the code points.

    If the vocabulary has ``<unk>``, it is id 0 and replaces every character seen less often than ``min_frequency``, or
    never. Without it (``unknown=False``, the textbook's lyrics experiment), a space replaces them or, if the vocabulary
    has no space, the most frequent character.

    >>> tokenizer = CharacterTokenizer.from_text("banana")
    >>> tokenizer.characters, tokenizer.encode("nab!").tolist()
    ('abn', [3, 1, 2, 0])
    >>> tokenizer.decode([2, 1, 3])
    'ban'
    """

    document_id: ClassVar[int | None] = None

    def __init__(self, characters: str, replacement: str | None = None) -> None:
        """``characters``: sorted and distinct. ``replacement``: one of them, or None for ``<unk>`` as id 0."""
        check_characters(characters)
        if list(characters) != sorted(set(characters)):
            raise InputError("a character vocabulary must be sorted and without repetition")
        if replacement is not None and (len(replacement) != 1 or replacement not in characters):
            raise InputError(f"the replacement {replacement!r} must be one character of the vocabulary")
        self.characters = characters
        self.replacement = replacement
        self._offset = 1 if replacement is None else 0
        points = [ord(c) for c in characters]
        stand_in = 0 if replacement is None else characters.index(replacement)
        # The id of each code point up to the largest known; larger ones are clipped to the last entry, the stand-in.
        self._table = np.full(points[-1] + 2 if points else 1, stand_in, np.int32)
        self._table[points] = np.arange(self._offset, self._offset + len(points))

    @staticmethod
    def count(text: str) -> Counter[str]:
        """Count the characters of ``text``. The counts of its pieces can be added up."""
        counts = np.zeros(_POINTS, np.int64)
        for start in range(0, len(text), 16 * _BLOCK):
            block = np.bincount(_code_points(text[start : start + 16 * _BLOCK]))
            counts[: len(block)] += block
        return Counter({chr(point): int(counts[point]) for point in np.flatnonzero(counts)})

    @classmethod
    def from_text(cls, text: str, *, min_frequency: int = 1, unknown: bool = True) -> "CharacterTokenizer":
        """Make a vocabulary from ``text``."""
        return cls.from_counts(cls.count(text), min_frequency=min_frequency, unknown=unknown)

    @classmethod
    def from_counts(
        cls, counts: Mapping[str, int], *, min_frequency: int = 1, unknown: bool = True
    ) -> "CharacterTokenizer":
        """Make a vocabulary of the characters seen ``min_frequency`` times or more. Raises InputError if none is."""
        characters = "".join(sorted(c for c, count in counts.items() if count >= min_frequency))
        if not characters:
            raise InputError(
                f"no character of the text occurs {min_frequency} times or more: lower --min-frequency"
                if counts
                else "the text is empty: a vocabulary needs at least one character"
            )
        if unknown:
            return cls(characters)
        return cls(characters, " " if " " in characters else max(characters, key=lambda c: counts[c]))

    @property
    def vocabulary_size(self) -> int:
        return len(self.characters) + self._offset

    @property
    def special_ids(self) -> list[int]:
        return [0] if self.replacement is None else []

    def encode(self, text: str) -> np.ndarray:
        ids = np.empty(len(text), np.int32)
        for start in range(0, len(text), _BLOCK):
            points = _code_points(text[start : start + _BLOCK])
            np.take(self._table, points, mode="clip", out=ids[start : start + _BLOCK])
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(UNKNOWN if i < self._offset else self.characters[i - self._offset] for i in ids)

    def out_of_vocabulary(self, text: str) -> list[str]:
        return [c for c in dict.fromkeys(text) if c not in self.characters]

    def stream_decoder(self, after: str = "") -> Callable[[int | None], str]:
        return lambda i: "" if i is None else self.decode([i])

    def to_json(self) -> dict[str, Any]:
        return {"type": "characters", "replacement": self.replacement, "characters": self.characters}


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


class ByteTokenizer:
    """One id per byte of the UTF-8 text: 256 ids, nothing unknown.

    >>> ByteTokenizer().encode("é").tolist(), ByteTokenizer().decode([195, 169])
    ([195, 169], 'é')
    """

    vocabulary_size = 256
    special_ids: ClassVar[list[int]] = []
    document_id: ClassVar[int | None] = None

    def encode(self, text: str) -> np.ndarray:
        try:
            raw = text.encode("utf-8", "surrogateescape")  # restores bytes that are not valid UTF-8
        except UnicodeEncodeError:
            raw = text.encode("utf-8", "surrogatepass")
        return np.frombuffer(raw, np.uint8).astype(np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        return bytes(list(ids)).decode("utf-8", "replace")  # bytes(array) would be its memory

    def out_of_vocabulary(self, text: str) -> list[str]:
        return []

    def stream_decoder(self, after: str = "") -> Callable[[int | None], str]:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")  # keeps an incomplete character back
        return lambda i: decoder.decode(b"", True) if i is None else decoder.decode(bytes([i]))

    def to_json(self) -> dict[str, Any]:
        return {"type": "bytes"}
