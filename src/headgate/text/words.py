"""Words as ids: a text split at whitespace, with every line break a token of its own."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, ClassVar

import numpy as np

from headgate.errors import InputError

UNKNOWN = "\N{REPLACEMENT CHARACTER}"  # the text that the id of <unk> decodes to

_BLOCK = 1 << 20  # characters split at once
_TOKEN = re.compile(r"\S+|\n")
_SPACE = re.compile(r"\s")
_SURROGATE = re.compile("[\ud800-\udfff]")


class WordTokenizer:
    """One id per word; words are separated by whitespace, and a line break is a word of its own.

    ``<unk>``, for every word that is not in the vocabulary, is id 0. The words follow in the given order, in
    ``from_counts`` the most frequent first. Decoding puts one space between words and none next to a line break, so
    ``decode(encode(text))`` equals ``text`` except that unknown words are replaced, runs of spaces and tabs become one
    space, and those at the beginning or end of a line are removed. The word ``<unk>`` in a text is a word like any
    other.

    >>> tokenizer = WordTokenizer.from_counts(WordTokenizer.count("to be or\\nnot to be"))
    >>> tokenizer.words, tokenizer.encode("to  be\\nor what").tolist()
    (('be', 'to', '\\n', 'not', 'or'), [2, 1, 3, 5, 0])
    >>> tokenizer.decode([2, 1, 3, 5])
    'to be\\nor'
    """

    special_ids: ClassVar[list[int]] = [0]
    document_id: ClassVar[int | None] = None

    def __init__(self, words: Sequence[str]) -> None:
        """``words``: distinct, the most frequent first. Raises InputError unless each is a word."""
        check_characters("".join(words))
        for word in words:
            if word != "\n" and word.split() != [word]:
                raise InputError(f"a word of the vocabulary must have no whitespace, or be a line break; got {word!r}")
        if not words or len(set(words)) != len(words):
            raise InputError("a vocabulary must have at least one word, and each word only once")
        self.words = tuple(words)
        self._ids = {word: i for i, word in enumerate(self.words, 1)}

    @staticmethod
    def count(text: str) -> Counter[str]:
        """Count the words of ``text``. The counts of pieces that were cut at whitespace can be added up."""
        counts: Counter[str] = Counter()
        for tokens in _blocks(text):
            counts.update(tokens)
        return counts

    @classmethod
    def from_counts(cls, counts: Mapping[str, int], *, min_frequency: int = 1) -> "WordTokenizer":
        """Make a vocabulary of the words seen ``min_frequency`` times or more, by falling frequency, then by word."""
        words = [word for word, count in counts.items() if count >= min_frequency]
        if not words:
            raise InputError(
                f"no word of the text occurs {min_frequency} times or more: lower --min-frequency"
                if counts
                else "the text has no words: a vocabulary needs at least one"
            )
        return cls(sorted(words, key=lambda word: (-counts[word], word)))

    @property
    def vocabulary_size(self) -> int:
        return len(self.words) + 1

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of ``text``, int32, shape (words,); none if the text is empty or only spaces."""
        find = self._ids.get
        blocks = [np.fromiter(map(find, tokens, repeat(0)), np.int32, len(tokens)) for tokens in _blocks(text)]
        return np.concatenate(blocks) if blocks else np.empty(0, np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(map(self.stream_decoder(), ids))

    def out_of_vocabulary(self, text: str) -> list[str]:
        """Return the words of ``text`` not in the vocabulary, each once, in order of appearance."""
        return list(dict.fromkeys(word for tokens in _blocks(text) for word in tokens if word not in self._ids))

    def stream_decoder(self, after: str = "") -> Callable[[int | None], str]:
        """As ``Tokenizer.stream_decoder``. A space precedes the first word if ``after`` ends with a word."""
        in_line = bool(after) and not after[-1].isspace()

        def write(i: int | None) -> str:
            nonlocal in_line
            if i is None:
                return ""
            word = self.words[i - 1] if i else UNKNOWN
            piece = " " + word if in_line and word != "\n" else word
            in_line = word != "\n"
            return piece

        return write

    def to_json(self) -> dict[str, Any]:
        return {"type": "words", "words": list(self.words)}

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> "WordTokenizer":
        """Restore the tokenizer that ``to_json`` described. Raises InputError for anything else."""
        words = description.get("words")
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise InputError("the list of words is missing or damaged")
        return cls(words)


def check_characters(text: str) -> None:
    """Raise InputError for a vocabulary with half a surrogate pair, which could be neither written nor printed."""
    if half := _SURROGATE.search(text):
        raise InputError(
            f"the vocabulary contains half a surrogate pair, U+{ord(half.group()):04X}, which is not a character"
        )


def _blocks(text: str) -> Iterator[list[str]]:
    """Yield the tokens of a text, a few hundred thousand at a time: as strings they take ten times its memory."""
    start = 0
    while start < len(text):
        space = _SPACE.search(text, start + _BLOCK)
        end = space.start() if space else len(text)
        yield _TOKEN.findall(text, start, end)
        start = end
